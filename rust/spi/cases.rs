// SPDX-License-Identifier: GPL-2.0

//! The table of docs/spi-scope.md, for the tests here and on the host.

use crate::xfrm::uapi::{SA_DIR_IN, SA_DIR_OUT};

/// A request for an SPI that an SA with another destination has.
pub struct Case {
    /// Direction of the request, if it has one.
    pub request: Option<u8>,
    /// Direction of the SA, or 0.
    pub sa: u8,
    /// Whether it is refused in the scopes 0, 1 and 2.
    pub refused: [bool; 3],
}

const fn case(request: Option<u8>, sa: u8, in_scope_1: bool) -> Case {
    Case {
        request,
        sa,
        refused: [false, in_scope_1, true],
    }
}

/// All of them.
pub const CASES: [Case; 9] = [
    case(None, 0, false),
    case(None, SA_DIR_IN, false),
    case(None, SA_DIR_OUT, false),
    case(Some(SA_DIR_OUT), 0, false),
    case(Some(SA_DIR_OUT), SA_DIR_IN, false),
    case(Some(SA_DIR_OUT), SA_DIR_OUT, false),
    case(Some(SA_DIR_IN), 0, true),
    case(Some(SA_DIR_IN), SA_DIR_IN, true),
    case(Some(SA_DIR_IN), SA_DIR_OUT, false),
];
