//! Real servers that stop, freeze, answer wrongly, lose their virtual address or their decapsulator: how soon no
//! new connection goes there, and that nobody else notices; drains, slow start, and who is told.

pub mod clients;
pub mod cluster;
mod faults;
mod keepalived;
mod leaving;
mod telling;
