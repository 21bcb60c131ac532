// SPDX-License-Identifier: GPL-2.0
//! Marks: `MARK [mask MASK]`.

use crate::args::Args;
use crate::error::Result;
use crate::layout::Mark;

/// Reads the mark of an SA; without a mask all bits count.
pub fn parse(args: &mut Args<'_>) -> Result<Mark> {
    let value = args.u32("MARK value is invalid")?;
    let mask = mask(args, "MASK value is invalid")?.unwrap_or(u32::MAX);
    Ok(Mark { value, mask })
}

/// Reads the mark an SA sets; without a mask it is the kernel that chooses one.
pub fn parse_set(args: &mut Args<'_>) -> Result<(u32, Option<u32>)> {
    let value = args.u32("value after \"set-mark\" is invalid")?;
    Ok((value, mask(args, "mask value is invalid")?))
}

fn mask(args: &mut Args<'_>, why: &str) -> Result<Option<u32>> {
    match args.accept("mask") {
        true => args.u32(why).map(Some),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::words;

    #[test]
    fn masks() {
        for (line, value, mask) in [
            ("1", 1, u32::MAX),
            ("0x12 mask 0xff", 0x12, 0xff),
            ("0 mask 0", 0, 0),
        ] {
            let words = words(line);
            assert_eq!(parse(&mut Args::new(&words)).unwrap(), Mark { value, mask });
        }
        let words = words("1 new-dst");
        let mut args = Args::new(&words);
        assert_eq!(parse_set(&mut args).unwrap(), (1, None));
        assert_eq!(args.next(), Some("new-dst"));
    }

    #[test]
    fn complaints() {
        for (line, complaint) in [
            (
                "zz",
                "Error: argument \"zz\" is wrong: MARK value is invalid",
            ),
            (
                "1 mask zz",
                "Error: argument \"zz\" is wrong: MASK value is invalid",
            ),
            (
                "1 mask",
                "Command line is not complete. Try option \"help\"",
            ),
        ] {
            let words = words(line);
            let error = parse(&mut Args::new(&words)).unwrap_err();
            assert_eq!(error.to_string(), complaint);
        }
    }
}
