//! Services for people and programs: what `portolan service` and `portolan status` say of them.

mod report;

pub(crate) use report::ServicesReport;
