//! Finding faults by running histories and clusters that never were. So far: the checker that judges what
//! clients saw. The deterministic cluster on virtual time will stand beside it.

pub mod checker;
