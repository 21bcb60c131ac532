// SPDX-License-Identifier: GPL-2.0

//! Reading the type of a function from BTF, as a kernel and a module have it.

use module::{
    properties::btf::{prototype, Builder},
    redirect::btf::Unreadable,
};

/// 1: int, 2: struct sk_buff, 3: its pointer, 4: u32, 5: const 4, 6: pointer
/// to 5, and things in between whose trailers have to be passed over.
fn kernel() -> Builder {
    let mut b = Builder::new(None);
    b.add("int", 1, 0, 4, &[0x0100_0020]);
    b.add("sk_buff", 4, 1, 8, &[0, 1, 0]);
    b.add("", 2, 0, 2, &[]);
    b.add("u32", 8, 0, 1, &[]);
    b.add("", 10, 0, 4, &[]);
    b.add("", 2, 0, 5, &[]);
    b.add("", 3, 0, 0, &[1, 1, 4]);
    b
}

#[test]
fn tells_the_type_of_a_modules_function() {
    let base = kernel();
    let mut module = Builder::new(Some(&base));
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
#[cfg_attr(miri, ignore = "thousands of cases, of which the corpus has some")]
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
