// SPDX-License-Identifier: GPL-2.0

//! The module's logic, without a kernel.

mod btf;
mod common;
mod corpus;
mod plan;
mod replay;
mod request;
mod spi;
