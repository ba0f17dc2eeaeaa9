//! Resources from files, directories and the standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use calico_core::resource::{AnyResource, MAX_MANIFEST_SIZE, Mode, read_manifest};

use crate::failure::Failure;

/// Directories nested deeper than this are not looked at.
const MAX_DEPTH: usize = 32;

/// Reads `path`: a file, a directory (its `.yaml`, `.yml` and `.json` files, in order of name), or
/// `-` for `stdin`. Every mistake of every file is reported at once; `mode` says what counts as one.
pub(crate) fn read(
    path: &Path,
    recursive: bool,
    skip_empty: bool,
    mode: Mode,
    stdin: &mut dyn Read,
) -> Result<Vec<AnyResource>, Failure> {
    read_with(path, recursive, skip_empty, stdin, &mut |path, text| parse(path, text, mode))
}

/// The resources in the text of a file.
pub(crate) type Parsed = Result<Vec<AnyResource>, Failure>;

/// As [`read`], where `parse` says what is in the text of a file.
pub(crate) fn read_with(
    path: &Path,
    recursive: bool,
    skip_empty: bool,
    stdin: &mut dyn Read,
    parse: &mut dyn FnMut(&Path, &str) -> Parsed,
) -> Result<Vec<AnyResource>, Failure> {
    let mut resources = Vec::new();
    if path == Path::new("-") {
        resources = parse(path, &bounded(path, stdin)?)?;
    } else {
        let mut files = Vec::new();
        match fs::metadata(path).map_err(|source| failed(path, source))?.is_dir() {
            true => collect(path, recursive, MAX_DEPTH, &mut files)?,
            false => files.push(path.to_owned()),
        }
        let mut mistakes = Vec::new();
        for file in files {
            let mut open = fs::File::open(&file).map_err(|source| failed(&file, source))?;
            match parse(&file, &bounded(&file, &mut open)?) {
                Ok(found) => resources.extend(found),
                Err(failure) => mistakes.push(failure),
            }
        }
        if !mistakes.is_empty() {
            return Err(Failure::Several(mistakes));
        }
    }
    if resources.is_empty() && !skip_empty {
        return Err(Failure::Empty { path: path.to_owned() });
    }
    Ok(resources)
}

/// The text, or one byte more than is allowed, so that too much is noticed.
fn bounded(path: &Path, from: &mut dyn Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    from.take(MAX_MANIFEST_SIZE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| failed(path, source))?;
    if bytes.len() > MAX_MANIFEST_SIZE {
        // The cut may be inside of a letter; nobody reads what there is.
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        failed(path, std::io::Error::new(std::io::ErrorKind::InvalidData, error.utf8_error()))
    })
}

/// What is in a file of resources.
pub(crate) fn parse(path: &Path, text: &str, mode: Mode) -> Parsed {
    read_manifest(text, mode).map_err(|errors| Failure::Manifest { path: path.to_owned(), errors })
}

fn collect(
    directory: &Path,
    recursive: bool,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), Failure> {
    let entries = fs::read_dir(directory).map_err(|source| failed(directory, source))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|source| failed(directory, source))?.path());
    }
    paths.sort();
    for path in paths {
        let is_directory = fs::metadata(&path).map_err(|source| failed(&path, source))?.is_dir();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if is_directory {
            if recursive && depth > 0 {
                collect(&path, recursive, depth - 1, files)?;
            }
        } else if matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    Ok(())
}

fn failed(path: &Path, source: std::io::Error) -> Failure {
    Failure::Read { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: NAME}, \
                        spec: {cidr: 10.0.0.0/16}}\n";

    fn pool(name: &str) -> String {
        POOL.replace("NAME", name)
    }

    fn names(found: Result<Vec<AnyResource>, Failure>) -> Vec<String> {
        found.unwrap().iter().map(|resource| resource.name().to_owned()).collect()
    }

    #[test]
    fn directories_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for (file, text) in [
            ("b.yml", pool("b")),
            ("a.yaml", format!("{}---\n{}", pool("a1"), pool("a2"))),
            ("c.json", "[]".to_owned()),
            ("notes.txt", "nothing: [of ours".to_owned()),
            ("sub/d.yaml", pool("d")),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let read =
            |recursive| read(dir.path(), recursive, false, Mode::Valid, &mut std::io::empty());
        assert_eq!(names(read(false)), ["a1", "a2", "b"]);
        assert_eq!(names(read(true)), ["a1", "a2", "b", "d"]);
    }

    #[test]
    fn standard_input_and_nothing_at_all() {
        let dash = Path::new("-");
        assert_eq!(names(read(dash, false, false, Mode::Valid, &mut pool("x").as_bytes())), ["x"]);
        assert_eq!(names(read(dash, false, true, Mode::Valid, &mut &b""[..])), [""; 0]);
        assert!(matches!(
            read(dash, false, false, Mode::Valid, &mut &b""[..]),
            Err(Failure::Empty { .. })
        ));
    }

    #[test]
    fn mistakes_of_all_files_are_named_with_file_line_and_field() {
        let dir = tempfile::tempdir().unwrap();
        let text = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: x}\nspec:\n  \
                    cidr: 10.0.0.0/16\n";
        fs::write(dir.path().join("a.yaml"), format!("{text}  natOutgoin: true\n")).unwrap();
        fs::write(dir.path().join("b.yaml"), format!("{text}  blockSize: 33\n")).unwrap();
        let said = |mode| {
            let found = read(dir.path(), false, false, mode, &mut std::io::empty());
            let text = found.unwrap_err().to_string();
            text.replace(&dir.path().display().to_string(), "dir")
        };
        let unknown = "dir/a.yaml: document 1, line 6 (IPPool x): spec.natOutgoin: unknown field; \
                       did you mean `natOutgoing`?";
        assert_eq!(said(Mode::Strict), unknown);
        let size = "dir/b.yaml: document 1, line 6 (IPPool x): spec.blockSize: is 33; allowed are \
                    20 to 32";
        assert_eq!(said(Mode::Valid), format!("{unknown}\n{size}"));
    }
}
