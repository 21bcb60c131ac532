// SPDX-License-Identifier: GPL-2.0

//! What fuzzing found worth keeping.

use module::properties::ALL;
use std::{fs, path::Path};

#[test]
fn the_properties_hold_for_the_corpus() {
    for (name, property) in ALL {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(name);
        let files: Vec<_> = fs::read_dir(folder).expect("a folder").collect();
        assert!(!files.is_empty(), "the corpus of {name} is empty");
        for file in files {
            let path = file.expect("a file").path();
            println!("{}", path.display()); // the last one is seen if it fails
            property(&fs::read(path).expect("its bytes"));
        }
    }
}
