//! The fourth floor: what clients see. Translation, checks at the wall and admission; what is
//! true is decided below.

pub mod admission;
pub mod grpc;
