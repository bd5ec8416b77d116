//! The ways of seeing switches, and the order in which they are tried.

use std::fmt;
use std::str::FromStr;

/// A way of seeing switches, with the wake-ups and births that go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SwitchRung {
    /// The typed tracepoint `sched_switch`: everything is known, by plain loads.
    TpBtf,
    /// The same tracepoint untyped: everything is known, through a helper.
    RawTracepoint,
    /// The same tracepoint by its printed form: needs no type information, and names the next thread by its id only.
    Tracepoint,
    /// The function `finish_task_switch` through its type: behind the switch.
    Fentry,
    /// The same function through a breakpoint.
    Kprobe,
}

impl SwitchRung {
    /// Every rung, in the order in which they are tried.
    ///
    /// What a rung knows comes first, then what it costs. The tracepoint hands out state and stack as the thread
    /// leaves, so its three forms come before the function, which runs when the state may have changed again and a
    /// thread that never comes back has no stack. Of the three, types spare a call of a helper for each field; the
    /// printed form comes last, because it takes a lookup for each switch of the machine.
    pub const ALL: [Self; 5] =
        [Self::TpBtf, Self::RawTracepoint, Self::Tracepoint, Self::Fentry, Self::Kprobe];

    /// Its name, as libbpf's section names have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::RawTracepoint => "raw_tracepoint",
            Self::Tracepoint => "tracepoint",
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }

    /// Whether it needs the kernel's type information.
    pub const fn needs_types(self) -> bool {
        !matches!(self, Self::Tracepoint)
    }

    /// What a reader of a report must know of figures that came by it.
    pub const fn caveat(self) -> Option<&'static str> {
        match self {
            Self::TpBtf | Self::RawTracepoint | Self::Tracepoint => None,
            Self::Fentry | Self::Kprobe => Some(
                "switches were seen as they ended: a thread that was woken as it left the CPU shows an unknown state, \
                 and a wait that went on beyond the window has no stack",
            ),
        }
    }
}

impl fmt::Display for SwitchRung {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for SwitchRung {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|rung| rung.name() == text).ok_or_else(|| format!("one of {}", names()))
    }
}

/// A rung that could not be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRung {
    /// The rung.
    pub rung: SwitchRung,
    /// Why not, in one line.
    pub reason: String,
}

impl fmt::Display for RefusedRung {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.rung, self.reason)
    }
}

/// How the switches of a recording are seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// The rung that is used.
    pub rung: SwitchRung,
    /// The hook, as `kind/name`: `kprobe/finish_task_switch.isra.0`.
    pub hook: String,
    /// The rungs that were tried before it.
    pub refused: Vec<RefusedRung>,
}

/// The names in `kallsyms` under which the compiler keeps the function `name`: its own, or that with a number after
/// `.isra` or `.constprop`, where arguments that nobody reads were left out. A part that was moved away (`.cold`,
/// `.part`) is not where the function begins.
pub fn clones(kallsyms: &str, name: &str) -> Vec<String> {
    let is_clone = |symbol: &str| {
        let Some(rest) = symbol.strip_prefix(name) else { return false };
        let mut parts = rest.split('.');
        if parts.next() != Some("") {
            return false;
        }
        let parts: Vec<&str> = parts.collect();
        let (pairs, odd) = parts.as_chunks::<2>();
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        odd.is_empty()
            && pairs.iter().all(|[kind, number]| matches!(*kind, "isra" | "constprop") && is_number(number))
    };
    let symbol = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (kind, symbol) = (fields.nth(1)?, fields.next()?);
        // Functions, and not those of a module, which stand behind their names in brackets.
        (matches!(kind, "t" | "T") && fields.next().is_none() && is_clone(symbol)).then(|| symbol.to_owned())
    };
    kallsyms.lines().filter_map(symbol).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rung_is_tried_once_and_its_name_leads_back_to_it() {
        for rung in SwitchRung::ALL {
            assert_eq!(SwitchRung::ALL.iter().filter(|other| **other == rung).count(), 1);
            assert_eq!(rung.name().parse(), Ok(rung));
        }
        assert!("ftrace".parse::<SwitchRung>().unwrap_err().contains("kprobe"));
    }

    #[test]
    fn only_the_function_itself_is_a_clone_of_it() {
        let kallsyms = "\
ffffffff81000000 t finish_task_switch.isra.0
ffffffff81000100 t finish_task_switch.isra.0.cold
ffffffff81000200 t finish_task_switch.part.0
ffffffff81000300 T finish_task_switch_later
ffffffff81000400 t prepare_finish_task_switch
ffffffff81000500 d finish_task_switch
ffffffff81000600 t finish_task_switch.constprop.12
ffffffff81000700 t finish_task_switch.constprop.0.isra.1
ffffffff81000800 t finish_task_switch.isra
ffffffff81000900 t finish_task_switch.isra.x
ffffffff81000a00 t finish_task_switch\t[module]
";
        let expected = [
            "finish_task_switch.isra.0",
            "finish_task_switch.constprop.12",
            "finish_task_switch.constprop.0.isra.1",
        ];
        assert_eq!(clones(kallsyms, "finish_task_switch"), expected);
        assert_eq!(clones("0 T finish_task_switch", "finish_task_switch"), ["finish_task_switch"]);
        assert!(clones("", "finish_task_switch").is_empty());
    }
}
