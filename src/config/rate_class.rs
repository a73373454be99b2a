//! Reading rate classes: `CLASS=PER_SECOND/BURST`.

use super::RateClass;
use crate::limits::RATE_MAX;

/// Reads one, if it is one. Class 0 is the default and has keys of its own.
pub(super) fn parse(text: &str) -> Option<RateClass> {
    let (class, rates) = text.split_once('=')?;
    let (per_second, burst) = rates.split_once('/')?;
    let class = class.trim().parse().ok().filter(|class| *class > 0)?;
    Some(RateClass { class, per_second: rate(per_second)?, burst: rate(burst)? })
}

fn rate(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|rate| (1..=RATE_MAX).contains(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_a_number_and_two_rates() {
        let class = RateClass { class: 7, per_second: 5, burst: 20 };
        for text in ["7=5/20", " 7 = 5 / 20 "] {
            assert_eq!(parse(text), Some(class));
        }
        assert_eq!(class.to_string(), "7=5/20");
        assert_eq!(parse("255=1/1").map(|class| class.class), Some(255));
        for text in ["", "7", "7=5", "5/20", "0=5/20", "256=5/20", "7=0/20", "7=5/0", "-1=5/20"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse("7=1000000001/1"), None);
    }
}
