//! Groups as their members see them.

use super::*;
