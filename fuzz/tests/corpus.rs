//! Every target over its committed corpus, so that a found bug stays found.

use std::fs;
use std::path::Path;

#[test]
fn every_target_passes_its_corpus() {
    for (name, run) in postroad_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let files = fs::read_dir(&folder).expect("each target has a corpus folder");
        for file in files {
            let path = file.expect("the corpus is readable").path();
            run(&fs::read(&path).expect("the corpus is readable"));
        }
    }
}
