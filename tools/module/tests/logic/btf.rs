// SPDX-License-Identifier: GPL-2.0

//! Reading the type of a function from BTF, as a kernel and a module have it.

use module::redirect::btf::{Blob, Line, Types, Unreadable};

/// BTF that is being put together.
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    strings_before: usize,
}

impl Builder {
    fn new(strings_before: usize) -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            strings_before,
        }
    }

    fn add(&mut self, name: &str, kind: u32, vlen: u32, target: u32, trailer: &[u32]) {
        let offset = if name.is_empty() {
            0
        } else {
            let offset = self.strings_before + self.strings.len();
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            offset as u32
        };
        for word in [offset, kind << 24 | vlen, target].iter().chain(trailer) {
            self.types.extend(word.to_ne_bytes());
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let types = self.types.len() as u32;
        let mut bytes = Vec::new();
        for word in [0x0001_eb9f, 24, 0, types, types, self.strings.len() as u32] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(&self.types);
        bytes.extend(&self.strings);
        bytes
    }
}

/// 1: int, 2: struct sk_buff, 3: its pointer, 4: u32, 5: const 4, 6: pointer
/// to 5, and things in between whose trailers have to be passed over.
fn kernel() -> Builder {
    let mut b = Builder::new(0);
    b.add("int", 1, 0, 4, &[0x0100_0020]);
    b.add("sk_buff", 4, 1, 8, &[0, 1, 0]);
    b.add("", 2, 0, 2, &[]);
    b.add("u32", 8, 0, 1, &[]);
    b.add("", 10, 0, 4, &[]);
    b.add("", 2, 0, 5, &[]);
    b.add("", 3, 0, 0, &[1, 1, 4]);
    b
}

fn prototype(base: &[u8], module: Option<&[u8]>, name: &str) -> Result<Option<String>, Unreadable> {
    let base = Blob::parse(base)?;
    let module = module.map(Blob::parse).transpose()?;
    let mut index = Vec::new();
    base.for_each(|offset| index.push(offset))?;
    let of_base = index.len();
    if let Some(module) = module {
        module.for_each(|offset| index.push(offset))?;
    }
    let mut line = Line::default();
    let found = Types::new(base, module, &index, of_base).prototype(name, &mut line)?;
    Ok(found.map(|()| line.text().to_string()))
}

#[test]
fn tells_the_type_of_a_modules_function() {
    let base = kernel();
    let mut module = Builder::new(base.strings.len());
    // 8: pointer to pointer to sk_buff, 9: the prototype, 10: the function.
    module.add("", 2, 0, 3, &[]);
    module.add("", 13, 3, 1, &[0, 3, 0, 8, 0, 6]);
    module.add("serve", 12, 0, 9, &[]);
    let (base, module) = (base.bytes(), module.bytes());

    let found = prototype(&base, Some(&module), "serve");
    let expected = "int (struct sk_buff *, struct sk_buff * *, const u32 *)";
    assert_eq!(found, Ok(Some(expected.to_string())));
    assert_eq!(prototype(&base, Some(&module), "other"), Ok(None));
    assert_eq!(prototype(&base, None, "serve"), Ok(None));
}

#[test]
fn tells_void() {
    let mut base = kernel();
    base.add("", 13, 0, 0, &[]);
    base.add("nothing", 12, 0, 8, &[]);
    let found = prototype(&base.bytes(), None, "nothing");
    assert_eq!(found, Ok(Some("void ()".to_string())));
}

#[test]
fn what_is_broken_is_unreadable() {
    let good = kernel().bytes();
    assert_eq!(prototype(b"", None, "f"), Err(Unreadable));
    assert_eq!(
        prototype(&good[..good.len() - 1], None, "f"),
        Err(Unreadable)
    );
    let mut no_magic = good.clone();
    no_magic[0] = 0;
    assert_eq!(prototype(&no_magic, None, "f"), Err(Unreadable));
    let mut unknown_kind = kernel();
    unknown_kind.add("", 31, 0, 0, &[]);
    assert_eq!(prototype(&unknown_kind.bytes(), None, "f"), Err(Unreadable));
    let mut dangling = kernel();
    dangling.add("f", 12, 0, 99, &[]);
    assert_eq!(prototype(&dangling.bytes(), None, "f"), Err(Unreadable));
}

#[test]
fn any_cut_and_any_flipped_byte_is_survived() {
    let mut base = kernel();
    base.add("", 13, 2, 1, &[0, 3, 0, 6]);
    base.add("f", 12, 0, 8, &[]);
    let good = base.bytes();
    for len in 0..good.len() {
        let _ = prototype(&good[..len], None, "f");
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            let _ = prototype(&bad, None, "f");
        }
    }
}
