//! What each device's throttle measured and did.

use std::collections::BTreeMap;

use probes_common::{Latency as Measured, WbtLatency, WbtStat, WbtStep, WbtTimer};
use reports::wbt::{Device, Latency, Limits};

use crate::device::device_of_name;

/// `LAT_EXCEEDED` (block/blk-wbt.c).
const LATE: u32 = 4;

/// States by device.
#[derive(Debug, Default)]
pub struct Devices(BTreeMap<String, Device>);

impl Devices {
    /// Takes a measurement.
    pub fn stat(&mut self, stat: &WbtStat) {
        let device = self.device(&stat.device_name);
        add(&mut device.reads, &stat.read);
        add(&mut device.writes, &stat.write);
    }

    /// Takes a read that is late.
    pub fn late(&mut self, late: &WbtLatency) {
        let device = self.device(&late.device_name);
        device.late_reads += 1;
        device.latest_read_ns = device.latest_read_ns.max(late.latency_ns);
    }

    /// Takes a change of limits.
    pub fn step(&mut self, step: &WbtStep) {
        let device = self.device(&step.device_name);
        *device.steps.entry(device_of_name(&step.why)).or_default() += 1;
        let limits = Limits {
            step: step.step,
            window_ns: step.window_ns,
            background: step.background,
            normal: step.normal,
            max: step.max,
        };
        if device.tightest.is_none_or(|tightest| tightest.step < limits.step) {
            device.tightest = Some(limits);
        }
        device.last = Some(limits);
    }

    /// Takes the end of a window of measurement.
    pub fn window(&mut self, timer: &WbtTimer) {
        let device = self.device(&timer.device_name);
        device.windows += 1;
        device.late_windows += u64::from(timer.status == LATE);
        device.most_in_flight = device.most_in_flight.max(u64::from(timer.in_flight));
    }

    /// All that was heard of, and these besides.
    pub fn finish(mut self, others: impl IntoIterator<Item = String>) -> Vec<Device> {
        for other in others {
            self.0.entry(other).or_default();
        }
        let named = |(device, state): (String, Device)| Device { name: device.clone(), device, ..state };
        self.0.into_iter().map(named).collect()
    }

    fn device(&mut self, name: &[u8]) -> &mut Device {
        self.0.entry(device_of_name(name)).or_default()
    }
}

fn add(sum: &mut Latency, measured: &Measured) {
    if measured.samples == 0 {
        return;
    }
    sum.min_ns = if sum.samples == 0 { measured.min_ns } else { sum.min_ns.min(measured.min_ns) };
    sum.max_ns = sum.max_ns.max(measured.max_ns);
    sum.samples = sum.samples.saturating_add(measured.samples);
    sum.sum_ns = sum.sum_ns.saturating_add(measured.mean_ns.saturating_mul(measured.samples));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> [u8; probes_common::DEVICE_NAME_LEN] {
        let mut name = [0; probes_common::DEVICE_NAME_LEN];
        name[..3].copy_from_slice(b"7:0");
        name
    }

    #[test]
    fn measurements_are_weighted_and_those_of_nothing_left_out() {
        let mut devices = Devices::default();
        let latency = |mean_ns, min_ns, max_ns, samples| Measured { mean_ns, min_ns, max_ns, samples };
        let nothing = latency(0, u64::MAX, 0, 0);
        for read in [latency(10, 5, 20, 3), nothing, latency(30, 30, 30, 1)] {
            devices.stat(&WbtStat { device_name: name(), read, write: nothing });
        }
        let device = &devices.finish([])[0];
        assert_eq!(device.reads, Latency { samples: 4, sum_ns: 60, min_ns: 5, max_ns: 30 });
        assert_eq!(device.writes, Latency::default());
    }

    #[test]
    fn the_tightest_limits_and_the_last_are_kept() {
        let mut devices = Devices::default();
        for (step, max) in [(1, 16), (3, 4), (-1, 64)] {
            let mut why = [0; 16];
            why[..4].copy_from_slice(b"step");
            let (background, normal) = (max / 4, max / 2);
            devices.step(&WbtStep { device_name: name(), window_ns: 9, step, background, normal, max, why });
        }
        for status in [1, 4, 4] {
            let in_flight = 10 * status;
            devices.window(&WbtTimer { device_name: name(), status, step: 0, in_flight, reserved: 0 });
        }
        let devices = devices.finish(["8:0".to_owned()]);
        let device = &devices[0];
        assert_eq!(device.tightest.map(|limits| (limits.step, limits.max)), Some((3, 4)));
        assert_eq!(device.last.map(|limits| limits.step), Some(-1));
        assert_eq!((device.windows, device.late_windows, device.most_in_flight), (3, 2, 40));
        assert_eq!(device.steps, [("step".to_owned(), 3)].into());
        assert_eq!((devices[1].device.as_str(), devices[1].windows), ("8:0", 0));
    }
}
