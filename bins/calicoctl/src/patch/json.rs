//! JSON Patch (RFC 6902) with JSON pointers (RFC 6901).

use serde_json::Value;

/// Carries out every operation, or says which one cannot be.
pub(super) fn apply(target: &mut Value, patch: &Value) -> Result<(), String> {
    let operations = patch.as_array().ok_or("a patch of type json is a list of operations")?;
    for (nth, operation) in operations.iter().enumerate() {
        one(target, operation).map_err(|reason| format!("operation {}: {reason}", nth + 1))?;
    }
    Ok(())
}

fn one(target: &mut Value, operation: &Value) -> Result<(), String> {
    let text = |name: &str| {
        operation[name].as_str().ok_or_else(|| format!("{name} is missing or no text"))
    };
    let value = || operation.get("value").cloned().ok_or_else(|| "value is missing".to_owned());
    let path = text("path")?;
    match text("op")? {
        "add" => add(target, path, value()?),
        "remove" => remove(target, path).map(drop),
        "replace" => {
            let value = value()?;
            *target.pointer_mut(path).ok_or_else(|| missing(path))? = value;
            Ok(())
        }
        "move" => {
            let from = text("from")?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(format!("{from} cannot move into itself"));
            }
            let value = remove(target, from)?;
            add(target, path, value)
        }
        "copy" => {
            let from = text("from")?;
            let value = target.pointer(from).cloned().ok_or_else(|| missing(from))?;
            add(target, path, value)
        }
        "test" => {
            let (found, wanted) = (target.pointer(path), value()?);
            match found {
                Some(found) if *found == wanted => Ok(()),
                Some(found) => Err(format!("{path} is {found}, not {wanted}")),
                None => Err(missing(path)),
            }
        }
        other => Err(format!("{other:?} is none of add, remove, replace, move, copy, test")),
    }
}

fn missing(path: &str) -> String {
    format!("there is nothing at {path:?}")
}

/// The pointer to what holds the place, and the last part of the pointer.
fn split(path: &str) -> Result<(&str, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| missing(path))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn index(text: &str, len: usize) -> Result<usize, String> {
    let plain = text == "0" || !text.starts_with('0');
    let index = text.parse().ok().filter(|_| plain && !text.starts_with('+'));
    index
        .filter(|index| *index <= len)
        .ok_or_else(|| format!("{text:?} is no place in a list of {len}"))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent) {
        Some(Value::Object(fields)) => {
            fields.insert(last, value);
        }
        Some(Value::Array(items)) => {
            let at = if last == "-" { items.len() } else { index(&last, items.len())? };
            items.insert(at, value);
        }
        _ => return Err(missing(parent)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent) {
        Some(Value::Object(fields)) => fields.shift_remove(&last).ok_or_else(|| missing(path)),
        Some(Value::Array(items)) => {
            let at = index(&last, items.len())?;
            if at < items.len() { Ok(items.remove(at)) } else { Err(missing(path)) }
        }
        _ => Err(missing(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_of_the_standard() {
        let mut value = json!({"a": {"b~/c": 1}, "l": [1, 2]});
        let patch = json!([
            {"op": "test", "path": "/a/b~0~1c", "value": 1},
            {"op": "add", "path": "/l/1", "value": 9},
            {"op": "add", "path": "/l/-", "value": 3},
            {"op": "copy", "from": "/l/0", "path": "/first"},
            {"op": "move", "from": "/a", "path": "/z"},
            {"op": "replace", "path": "/l/0", "value": 0},
            {"op": "remove", "path": "/l/1"},
        ]);
        apply(&mut value, &patch).unwrap();
        assert_eq!(value, json!({"l": [0, 2, 3], "first": 1, "z": {"b~/c": 1}}));
    }

    #[test]
    fn what_cannot_be_done_says_which_operation() {
        for (patch, part) in [
            (json!([{"op": "remove", "path": "/x"}]), "operation 1: there is nothing at \"/x\""),
            (json!([{"op": "add", "path": "/l/7", "value": 1}]), "no place in a list of 2"),
            (json!([{"op": "add", "path": "/l/01", "value": 1}]), "no place"),
            (json!([{"op": "test", "path": "/l/0", "value": 2}]), "is 1, not 2"),
            (json!([{"op": "move", "from": "/l", "path": "/l/0"}]), "into itself"),
            (json!([{"op": "add", "path": "/x"}]), "value is missing"),
            (json!([{"op": "burn", "path": "/x"}]), "none of add"),
            (json!({}), "a list of operations"),
        ] {
            let error = apply(&mut json!({"l": [1, 2]}), &patch).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
