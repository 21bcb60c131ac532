// SPDX-License-Identifier: GPL-2.0

//! Just enough of BTF to tell the type of a function.
//!
//! The format is that of `Documentation/bpf/btf.rst`. Nothing here depends on
//! the kernel: bytes go in, text comes out.

use core::fmt::{self, Write};

/// The bytes aren't BTF, or of a kind that is newer than this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

const MAGIC: u32 = 0xeb9f;

const INT: u32 = 1;
const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const FLOAT: u32 = 16;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// How many types may stand between a parameter and a name; broken BTF can go
/// round in circles.
const DEPTH: u32 = 8;

/// Bytes that follow the three words of a type, by its kind.
fn trailer(kind: u32, vlen: usize) -> Result<usize, Unreadable> {
    Ok(match kind {
        INT | 14 | 17 => 4,
        3 => 12,
        STRUCT | UNION | 15 | ENUM64 => vlen * 12,
        ENUM | FUNC_PROTO => vlen * 8,
        PTR | FWD..=FUNC | FLOAT | TYPE_TAG => 0,
        _ => return Err(Unreadable),
    })
}

fn word(bytes: &[u8], offset: usize) -> Result<u32, Unreadable> {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    Ok(u32::from_ne_bytes(*word.ok_or(Unreadable)?))
}

/// One blob of BTF, as `/sys/kernel/btf` has them.
#[derive(Clone, Copy)]
pub struct Blob<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Blob<'a> {
    /// Finds the sections of a blob.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Unreadable> {
        let section = |offset, len| {
            let start = word(bytes, 4)? as usize + word(bytes, offset)? as usize;
            let end = start.checked_add(word(bytes, len)? as usize);
            bytes.get(start..end.ok_or(Unreadable)?).ok_or(Unreadable)
        };
        if word(bytes, 0)? & 0xffff != MAGIC {
            return Err(Unreadable);
        }
        Ok(Self {
            types: section(8, 12)?,
            strings: section(16, 20)?,
        })
    }

    /// Calls `f` with the offset of each type, in the order of their ids.
    pub fn for_each(&self, mut f: impl FnMut(u32)) -> Result<(), Unreadable> {
        let mut at = 0;
        while at < self.types.len() {
            f(at as u32);
            let info = word(self.types, at + 4)?;
            at += 12 + trailer(info >> 24 & 0x1f, info as usize & 0xffff)?;
        }
        Ok(())
    }
}

/// A blob, and where each type begins in it: the offsets that
/// [`Blob::for_each`] tells.
pub type Indexed<'a> = (Blob<'a>, &'a [u32]);

/// The types of the kernel, and those of one module on top of them. Id 0 is
/// void and isn't in either.
pub struct Types<'a> {
    base: Indexed<'a>,
    module: Option<Indexed<'a>>,
}

struct Type {
    name: u32,
    kind: u32,
    vlen: usize,
    /// The type that this one refers to, for kinds that do.
    target: u32,
}

impl<'a> Types<'a> {
    /// Puts the blobs together.
    pub fn new(base: Indexed<'a>, module: Option<Indexed<'a>>) -> Self {
        Self { base, module }
    }

    /// Returns the bytes in which type `id` is, and where it begins there.
    fn locate(&self, id: u32) -> Result<(&'a [u8], usize), Unreadable> {
        let place = (id as usize).checked_sub(1).ok_or(Unreadable)?;
        let ((blob, index), place) = match place.checked_sub(self.base.1.len()) {
            None => (self.base, place),
            Some(place) => (self.module.ok_or(Unreadable)?, place),
        };
        Ok((blob.types, *index.get(place).ok_or(Unreadable)? as usize))
    }

    fn get(&self, id: u32) -> Result<Type, Unreadable> {
        let (types, at) = self.locate(id)?;
        let info = word(types, at + 4)?;
        Ok(Type {
            name: word(types, at)?,
            kind: info >> 24 & 0x1f,
            vlen: info as usize & 0xffff,
            target: word(types, at + 8)?,
        })
    }

    fn name(&self, offset: u32) -> Result<&'a str, Unreadable> {
        let offset = offset as usize;
        let base = self.base.0.strings;
        let strings = match offset.checked_sub(base.len()) {
            None => &base[offset..],
            Some(offset) => {
                let (module, _) = self.module.ok_or(Unreadable)?;
                module.strings.get(offset..).ok_or(Unreadable)?
            }
        };
        let end = strings.iter().position(|&c| c == 0).ok_or(Unreadable)?;
        core::str::from_utf8(&strings[..end]).map_err(|_| Unreadable)
    }

    /// Writes the prototype of `function` without names, if there is one.
    pub fn prototype(&self, function: &str, out: &mut dyn Write) -> Result<Option<()>, Unreadable> {
        let count = self.base.1.len() + self.module.map_or(0, |(_, index)| index.len());
        // A module's functions come last.
        for id in (1..=count as u32).rev() {
            let t = self.get(id)?;
            if t.kind == FUNC && self.name(t.name)? == function {
                return self.write_prototype(t.target, out).map(Some);
            }
        }
        Ok(None)
    }

    fn write_prototype(&self, id: u32, out: &mut dyn Write) -> Result<(), Unreadable> {
        let t = self.get(id)?;
        if t.kind != FUNC_PROTO {
            return Err(Unreadable);
        }
        self.write_type(t.target, DEPTH, out)?;
        put(out, " (")?;
        let (types, at) = self.locate(id)?;
        for n in 0..t.vlen {
            if n > 0 {
                put(out, ", ")?;
            }
            self.write_type(word(types, at + 12 + n * 8 + 4)?, DEPTH, out)?;
        }
        put(out, ")")
    }

    fn write_type(&self, id: u32, depth: u32, out: &mut dyn Write) -> Result<(), Unreadable> {
        if id == 0 {
            return put(out, "void");
        }
        let t = self.get(id)?;
        let rest = depth.checked_sub(1).ok_or(Unreadable)?;
        let prefix = match t.kind {
            STRUCT | FWD => "struct ",
            UNION => "union ",
            ENUM | ENUM64 => "enum ",
            INT | FLOAT | TYPEDEF => "",
            PTR => {
                self.write_type(t.target, rest, out)?;
                return put(out, " *");
            }
            CONST => {
                put(out, "const ")?;
                return self.write_type(t.target, rest, out);
            }
            VOLATILE | RESTRICT | TYPE_TAG => return self.write_type(t.target, rest, out),
            _ => return Err(Unreadable),
        };
        put(out, prefix)?;
        put(
            out,
            match self.name(t.name)? {
                // As clang calls it.
                "unsigned short" => "short unsigned int",
                name => name,
            },
        )
    }
}

fn put(out: &mut dyn Write, text: &str) -> Result<(), Unreadable> {
    out.write_str(text).map_err(|_| Unreadable)
}

/// A line of text of bounded length.
pub struct Line {
    bytes: [u8; 240],
    used: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 240],
            used: 0,
        }
    }
}

impl Line {
    /// Returns what has been written.
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.used]).unwrap_or("")
    }
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.used..self.used + s.len());
        room.ok_or(fmt::Error)?.copy_from_slice(s.as_bytes());
        self.used += s.len();
        Ok(())
    }
}
