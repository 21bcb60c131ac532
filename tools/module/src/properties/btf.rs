// SPDX-License-Identifier: GPL-2.0

//! The type of a function is told from BTF as it was put in, and no bytes at
//! all make the reader fall.

use crate::redirect::btf::{Blob, Line, Types, Unreadable};
use arbitrary::{Result, Unstructured};

/// BTF that is being put together.
pub struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    strings_before: usize,
}

impl Builder {
    /// Begins a blob, that of a module if `base` is given.
    pub fn new(base: Option<&Self>) -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
            strings_before: base.map_or(0, |base| base.strings.len()),
        }
    }

    /// Adds a type; its id is the number of those before it, plus one.
    pub fn add(&mut self, name: &str, kind: u32, vlen: u32, target: u32, trailer: &[u32]) {
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

    /// The blob.
    pub fn bytes(&self) -> Vec<u8> {
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

fn index(blob: Blob<'_>) -> std::result::Result<Vec<u32>, Unreadable> {
    let mut index = Vec::new();
    blob.for_each(|offset| index.push(offset))?;
    Ok(index)
}

/// Reads the prototype of function `name`, as the module does.
pub fn prototype(
    base: &[u8],
    module: Option<&[u8]>,
    name: &str,
) -> std::result::Result<Option<String>, Unreadable> {
    let base = Blob::parse(base)?;
    let module = module.map(Blob::parse).transpose()?;
    let base_index = index(base)?;
    let module_index = module.map_or(Ok(Vec::new()), index)?;
    let mut line = Line::default();
    let types = Types::new((base, &base_index), module.map(|m| (m, &module_index[..])));
    let found = types.prototype(name, &mut line)?;
    Ok(found.map(|()| line.text().to_string()))
}

/// A type, whose name and what it refers to may be anything.
#[derive(Debug)]
struct Entry {
    kind: u32,
    name: &'static str,
    target: u32,
    parameters: Vec<u32>,
}

const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;

impl Entry {
    fn choose(u: &mut Unstructured<'_>) -> Result<Self> {
        let kind = *u.choose(&[
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, FUNC, FUNC, FUNC_PROTO, FUNC_PROTO, 14, 15, 16, 17,
            18, 19, 20,
        ])?;
        const LONG: &str =
            "a_name_that_is_too_long_to_fit_into_a_line_more_than_two_or_three_times";
        let mut entry = Self {
            kind,
            name: u.choose(&["f", "f", "g", "", "u32", LONG])?,
            target: u.int_in_range(0..=15)?,
            parameters: Vec::new(),
        };
        for _ in 0..u.int_in_range(0..=3)? {
            entry.parameters.push(u.int_in_range(0..=15)?);
        }
        Ok(entry)
    }

    /// Adds it with as many words behind it as the format asks for.
    fn add_to(&self, blob: &mut Builder) {
        let count = self.parameters.len();
        let trailer = match self.kind {
            1 | 14 | 17 => vec![0; 1],
            3 => vec![0; 3],
            4 | 5 | 15 | 19 => vec![0; 3 * count],
            6 => vec![0; 2 * count],
            FUNC_PROTO => self.parameters.iter().flat_map(|&p| [0, p]).collect(),
            _ => Vec::new(),
        };
        blob.add(self.name, self.kind, count as u32, self.target, &trailer);
    }
}

/// Type `id`; nothing if it can't be a parameter, or is too far from a name.
fn written(types: &[Entry], id: u32, depth: u32) -> Option<String> {
    let Some(place) = id.checked_sub(1) else {
        return Some("void".into());
    };
    let t = types.get(place as usize)?;
    let target = || written(types, t.target, depth.checked_sub(1)?);
    depth.checked_sub(1)?;
    match t.kind {
        1 | 8 | 16 => Some(t.name.into()),
        2 => Some(target()? + " *"),
        4 | 7 => Some(format!("struct {}", t.name)),
        5 => Some(format!("union {}", t.name)),
        6 | 19 => Some(format!("enum {}", t.name)),
        9 | 11 | 18 => target(),
        10 => Some(format!("const {}", target()?)),
        _ => None,
    }
}

/// The prototype of the last function that is called f.
fn expected(types: &[Entry]) -> std::result::Result<Option<String>, Unreadable> {
    if types.iter().any(|t| t.kind > 19) {
        return Err(Unreadable);
    }
    let Some(f) = types.iter().rfind(|t| t.kind == FUNC && t.name == "f") else {
        return Ok(None);
    };
    let text = || {
        let of = |id| written(types, id, 8);
        let place = f.target.checked_sub(1)? as usize;
        let p = types.get(place).filter(|t| t.kind == FUNC_PROTO)?;
        let parameters = p.parameters.iter().map(|&id| of(id));
        let parameters = parameters.collect::<Option<Vec<_>>>()?.join(", ");
        Some(format!("{} ({parameters})", of(p.target)?)).filter(|text| text.len() <= 240)
    };
    text().map(Some).ok_or(Unreadable)
}

pub(super) fn holds(u: &mut Unstructured<'_>) -> Result<()> {
    let mut types = Vec::new();
    for _ in 0..u.int_in_range(0..=15)? {
        types.push(Entry::choose(u)?);
    }
    let of_base = u.int_in_range(0..=types.len())?;
    let mut base = Builder::new(None);
    types[..of_base].iter().for_each(|t| t.add_to(&mut base));
    let mut module = Builder::new(Some(&base));
    types[of_base..].iter().for_each(|t| t.add_to(&mut module));
    let (mut base, mut module) = (base.bytes(), module.bytes());

    let found = prototype(&base, Some(&module), "f");
    assert_eq!(found, expected(&types), "{types:?}");

    // Whatever else the bytes are, nothing panics.
    while !u.is_empty() {
        let blob = if u.arbitrary()? {
            &mut base
        } else {
            &mut module
        };
        let at = u.choose_index(blob.len())?;
        blob[at] = u.arbitrary()?;
    }
    let _ = prototype(&base, Some(&module), "f");
    let _ = prototype(&base, None, "f");
    Ok(())
}
