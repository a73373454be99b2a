//! The report as one page.

use crate::report::Report;

/// The page.
pub(crate) fn page(reports: &[Report]) -> String {
    reports.iter().map(|report| report.name.clone()).collect()
}
