//! Connections: keys, table, timer wheel and protocol states. Never sees bytes.
#![forbid(unsafe_code)]

pub mod connection;
mod index;
pub mod key;
pub mod state;
pub mod table;
pub mod template;
pub mod wheel;
