//! Random stories, played to both graphs. Felix' has to be built first, which takes minutes, so
//! `cargo xtask felix` runs these.

use std::time::Instant;

use calico_felix_tests::canonical::Counts;
use calico_felix_tests::play::{self, Felix};
use calico_felix_tests::recorded;
use calico_felix_tests::story::Story;
use calico_test_servers::programs;
use calico_tests::replay::{Scenarios, minimise, number, seed};

#[test]
#[ignore = "builds Felix' graph with Go; `cargo xtask felix` runs it"]
fn random_stories() {
    let program = programs::find_felix(|text| println!("{text}")).unwrap();
    let mut felix = Felix::start(&program).unwrap();
    let wanted = number("CALICO_FELIX_STORIES").unwrap_or(200);
    let seed = seed();
    println!("seed: CALICO_DIFF_SEED={seed}");
    let started = Instant::now();
    let (mut counts, mut lines) = (Counts::default(), 0);
    for (index, random) in (0..wanted).zip(Scenarios::of(seed, 0)) {
        let mut check = |random: &[String]| -> Result<Counts, String> {
            let story = Story::of(random)?;
            let theirs = felix.play(&story)?;
            let ours = play::ours(&story, &theirs.refused)?;
            let difference = play::compare(&story, &ours, &theirs);
            if !difference.is_empty() {
                return Err(difference);
            }
            let mut counts = Counts::default();
            theirs.states.iter().for_each(|state| counts += state.counts());
            Ok(counts)
        };
        match check(&random) {
            Ok(more) => counts += more,
            Err(_) => {
                let small = minimise(random, |lines| check(lines).is_err());
                let difference = check(&small).unwrap_err();
                panic!(
                    "story {index} of CALICO_DIFF_SEED={seed}; - is ours, + is Felix'\n{}\n\n{difference}",
                    small.join("\n")
                );
            }
        }
        lines += random.len();
    }
    println!("{wanted} stories, {lines} resources, {counts:?} agree, in {:.1?}", started.elapsed());
}

/// The seed of the recordings.
const SEED: u64 = 331;

/// How many there are of random stories; each is some 10 KB.
const RECORDINGS: usize = 23;

#[test]
#[ignore = "builds Felix' graph with Go; `cargo xtask felix` runs it"]
fn recordings_are_what_felix_says() {
    let program = programs::find_felix(|text| println!("{text}")).unwrap();
    let mut felix = Felix::start(&program).unwrap();
    // Recordings keep their lines, whatever the generator makes by now; to write them anew is to
    // have new random ones.
    let write = std::env::var_os("CALICO_FELIX_RECORD").is_some();
    let random = Scenarios::of(SEED, 0).take(if write { RECORDINGS } else { 0 }).enumerate();
    let random = random.map(|(number, lines)| {
        let story = Story::of(&lines).unwrap();
        (recorded::directory().join(format!("random-{number:02}.txt")), story)
    });
    let kept = std::fs::read_dir(recorded::directory()).unwrap().map(|entry| entry.unwrap().path());
    let kept = kept.filter(|path| !write || !path.to_string_lossy().contains("random-"));
    let kept = kept.map(|path| {
        let (story, _) = recorded::read(&std::fs::read_to_string(&path).unwrap()).unwrap();
        (path, story)
    });
    for (path, story) in random.chain(kept) {
        let outcome = felix.play(&story).unwrap();
        let text = recorded::write(recorded::FELIX, &story, &outcome);
        if write {
            std::fs::write(&path, text).unwrap();
        } else {
            let before = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(before == text, "{} is not what Felix says", path.display());
        }
    }
}
