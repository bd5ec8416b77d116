//! What the verdicts do to data whose truth is known: shuffled, swapped, broken, and simulated with what makes
//! real pauses hard (heavy tails, a host that drifts, regimes).

use proptest::prelude::*;

use super::*;

/// Pauses as they are: of a host that drifts and sometimes stalls, of sweeps that differ, with rare long ones.
struct World {
    random: fastrand::Rng,
    drift: f64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), drift: 0.0 }
    }

    /// A figure of the standard normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.random.f64(), self.random.f64());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn sweep(&mut self, factor: f64) -> Vec<f64> {
        let level = 8.0 * factor * (self.drift + 0.06 * self.normal()).exp();
        let pause = |world: &mut Self| {
            let long = if world.random.f64() < 0.05 { 2.0 + 4.0 * world.random.f64() } else { 1.0 };
            level * long * (0.12 * world.normal()).exp()
        };
        (0..6).map(|_| pause(self)).collect()
    }

    fn blocks(&mut self, count: usize, factor: f64) -> Vec<Block> {
        let block = |index: usize| {
            self.drift += 0.05 * self.normal();
            let a_ms = self.sweep(1.0);
            self.drift += 0.02 * self.normal();
            let b_ms = self.sweep(factor);
            Block { a_ms, b_ms, b_first: index.is_multiple_of(2), conditions: None }
        };
        (0..count).map(block).collect()
    }
}

fn judge(blocks: &[Block]) -> Verdict {
    let alpha = 0.01;
    let look = Plan::once(alpha, blocks.len().max(MIN_BLOCKS), 1).unwrap().looks().next().unwrap();
    decide(vec![weigh_blocks(blocks, &look, None, 1)], &look).remove(0)
}

fn share_of(class: Class, worlds: u64, factor: f64) -> f64 {
    let hits = (0..worlds).filter(|seed| judge(&World::new(*seed).blocks(20, factor)).class == class).count();
    hits as f64 / worlds as f64
}

#[test]
fn a_build_against_itself_is_hardly_ever_a_regression() {
    let share = share_of(Class::Regress, 200, 1.0);
    assert!(share <= 0.015, "{share}");
}

#[test]
fn a_fifth_longer_is_found() {
    let share = share_of(Class::Regress, 100, 1.2);
    assert!(share >= 0.96, "{share}");
}

#[test]
fn labels_shuffled_within_blocks_show_no_difference() {
    let mut random = fastrand::Rng::with_seed(5);
    let shuffled = |seed| {
        let blocks = World::new(seed).blocks(20, 1.5);
        blocks.iter().map(|block| if random.bool() { block.swapped() } else { block.clone() }).collect()
    };
    let blocks: Vec<Vec<Block>> = (0..60).map(shuffled).collect();
    let regress = blocks.iter().filter(|blocks| judge(blocks).class == Class::Regress).count();
    assert!(regress <= 2, "{regress} of 60");
}

#[test]
fn arms_swapped_turn_a_regression_into_a_pass() {
    let blocks = World::new(3).blocks(20, 1.5);
    assert_eq!(judge(&blocks).class, Class::Regress);
    let swapped: Vec<Block> = blocks.iter().map(Block::swapped).collect();
    let verdict = judge(&swapped);
    assert_eq!(verdict.class, Class::Pass, "{:?}", verdict.reasons);
}

#[test]
fn a_jump_into_the_slow_regime_is_a_regression_of_its_own() {
    let mut blocks = World::new(4).blocks(20, 1.0);
    for block in &mut blocks {
        block.b_ms[2..].iter_mut().for_each(|pause_ms| *pause_ms *= 6.0);
    }
    let verdict = judge(&blocks);
    assert_eq!(verdict.class, Class::Regress);
    assert!(verdict.reasons.iter().all(|reason| reason.contains("slow regime")), "{:?}", verdict.reasons);
}

#[test]
fn one_block_zeros_and_nan_are_invalid() {
    assert_eq!(judge(&World::new(6).blocks(1, 3.0)).class, Class::Invalid);
    assert_eq!(judge(&[]).class, Class::Invalid);
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut blocks = World::new(6).blocks(10, 3.0);
        for block in &mut blocks[..3] {
            block.a_ms[1] = bad;
        }
        let verdict = judge(&blocks);
        assert_eq!(verdict.class, Class::Invalid, "{bad}");
        assert!(verdict.reasons[0].starts_with("7 of 10 count"), "{:?}", verdict.reasons);
    }
}

/// What little is known of a host, and that is bad.
const UNFIT: [Host; 4] = {
    let unknown = Host {
        steal_share: None,
        foreign_cpu_share: None,
        foreign_written_mib_s: None,
        dirty_mib: None,
        free_mib: None,
        space_was_low: false,
    };
    [
        Host { steal_share: Some(0.2), ..unknown },
        Host { dirty_mib: Some(100.0), ..unknown },
        Host { free_mib: Some(63.0), ..unknown },
        Host { space_was_low: true, ..unknown },
    ]
};

#[test]
fn trials_that_the_host_spoiled_do_not_count_without_blocks_either() {
    let look = Plan::unpaired(0.01, (12, 12), 1).unwrap().looks().next().unwrap();
    let judge = |a: &[Trial], b: &[Trial]| decide(vec![weigh_trials(a, b, &look, None, 1)], &look).remove(0);
    let trials = |seed| -> Vec<Trial> {
        let mut world = World::new(seed);
        (0..12).map(|_| Trial { pauses_ms: world.sweep(1.0), host: Some(Host::default()) }).collect()
    };
    assert_ne!(judge(&trials(1), &trials(2)).class, Class::Invalid, "what is not known spoils nothing");
    for unfit in UNFIT {
        let mut spoiled = trials(2);
        spoiled.iter_mut().take(5).for_each(|trial| trial.host = Some(unfit));
        let verdict = judge(&trials(1), &spoiled);
        assert_eq!((verdict.class, verdict.evidence.valid), (Class::Invalid, 7), "{unfit:?}");
        assert!(verdict.reasons[1].starts_with("trial 1 of the candidate: "), "{:?}", verdict.reasons);
    }
}

#[test]
fn a_good_measurement_is_hardly_ever_invalid() {
    for count in [10, 20] {
        let invalid = |seed: &u64| judge(&World::new(*seed).blocks(count, 1.0)).class == Class::Invalid;
        // 1.0 % of 2000 worlds with 10 blocks, 1.6 % with 20.
        let found = (0..200).filter(invalid).count();
        assert!(found <= 6, "{found} of 200 with {count} blocks");
    }
}

#[test]
fn a_stricter_alpha_does_not_weaken_the_checks() {
    let mut blocks = World::new(7).blocks(20, 1.0);
    for (index, block) in blocks.iter_mut().enumerate() {
        let host = |share: f64| Host { foreign_cpu_share: Some(share), ..Host::default() };
        block.conditions = Some(Conditions { a: host(0.0), b: host(0.5 + index as f64 * 1e-4) });
    }
    let look = Plan::once(0.00001, 20, 1).unwrap().looks().next().unwrap();
    let verdict = decide(vec![weigh_blocks(&blocks, &look, None, 1)], &look).remove(0);
    assert_eq!(verdict.class, Class::Invalid);
}

#[test]
fn a_host_that_was_busy_or_stolen_is_invalid() {
    let with = |a: Host, b: Host| {
        let mut blocks = World::new(7).blocks(20, 1.0);
        for (index, block) in blocks.iter_mut().enumerate() {
            let noise = index as f64 * 1e-4;
            let b = Host { foreign_cpu_share: b.foreign_cpu_share.map(|share| share + noise), ..b };
            block.conditions = Some(Conditions { a, b });
        }
        judge(&blocks)
    };
    let fit = Host { free_mib: Some(1000.0), foreign_cpu_share: Some(0.0), ..Host::default() };
    assert_ne!(with(fit, fit).class, Class::Invalid);
    let loaded = Host { foreign_cpu_share: Some(0.5), ..fit };
    assert!(with(fit, loaded).reasons[0].starts_with("load on one arm"));
    assert!(with(loaded, fit).reasons[0].starts_with("load on one arm"));
    assert_ne!(with(loaded, loaded).class, Class::Invalid);
    for unfit in UNFIT {
        assert_eq!(with(unfit, fit).class, Class::Invalid);
    }
}

#[test]
fn a_limit_is_broken_by_two_sweeps_and_not_by_one() {
    let mut blocks = World::new(8).blocks(20, 1.0);
    let look = Plan::once(0.01, 20, 1).unwrap().looks().next().unwrap();
    let judge =
        |blocks: &[Block]| decide(vec![weigh_blocks(blocks, &look, Some(80.0), 1)], &look).remove(0).class;
    blocks[3].b_ms = vec![100.0; 6];
    assert_ne!(judge(&blocks), Class::Regress);
    blocks[9].b_ms = vec![100.0; 6];
    assert_eq!(judge(&blocks), Class::Regress);
}

#[test]
fn among_many_cells_one_must_show_more() {
    let look = Plan::once(0.01, 8, 1).unwrap().looks().next().unwrap();
    let slower = weigh_blocks(&World::new(9).blocks(8, 2.0), &look, None, 1);
    let level = weigh_blocks(&World::new(10).blocks(8, 1.0), &look, None, 1);
    assert_eq!(overall(&decide(vec![slower.clone()], &look)), Class::Regress);
    // Eight blocks reach p = 1/256, which four cells turn into 1/64.
    let four = decide(vec![slower, level.clone(), level.clone(), level], &look);
    assert_ne!(overall(&four), Class::Regress);
}

#[test]
fn trials_without_blocks_are_judged_and_say_so() {
    let trials = |seed, factor| {
        let mut world = World::new(seed);
        (0..12).map(|_| Trial { pauses_ms: world.sweep(factor), host: None }).collect::<Vec<_>>()
    };
    let look = Plan::unpaired(0.01, (12, 12), 1).unwrap().looks().next().unwrap();
    let judge = |a: &[Trial], b: &[Trial]| decide(vec![weigh_trials(a, b, &look, None, 1)], &look).remove(0);
    let verdict = judge(&trials(1, 1.0), &trials(2, 1.5));
    assert_eq!((verdict.class, verdict.evidence.design), (Class::Regress, Design::Unpaired));
    assert_eq!(judge(&trials(1, 1.5), &trials(2, 1.0)).class, Class::Pass);
    let mut cut = trials(2, 1.5);
    cut.truncate(7);
    assert_eq!(judge(&trials(1, 1.0), &cut).class, Class::Invalid);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_pauses_make_it_panic_and_the_same_get_the_same_verdict(
        pauses in prop::collection::vec(
            (prop::collection::vec(prop::num::f64::ANY, 0..5), prop::collection::vec(prop::num::f64::ANY, 0..5),
             any::<bool>()),
            0..30,
        )
    ) {
        let blocks: Vec<Block> = pauses
            .into_iter()
            .map(|(a_ms, b_ms, b_first)| Block { a_ms, b_ms, b_first, conditions: None })
            .collect();
        // As text: a NaN is not equal to itself.
        prop_assert_eq!(format!("{:?}", judge(&blocks)), format!("{:?}", judge(&blocks)));
    }

    #[test]
    fn a_common_factor_changes_no_verdict(seed in 0_u64..1000, power in -3..4_i32) {
        let blocks = World::new(seed).blocks(12, 1.2);
        // A power of two scales without rounding.
        let scale = |pauses: &[f64]| pauses.iter().map(|ms| ms * 2_f64.powi(power)).collect();
        let scaled: Vec<Block> = blocks
            .iter()
            .map(|block| Block { a_ms: scale(&block.a_ms), b_ms: scale(&block.b_ms), ..block.clone() })
            .collect();
        prop_assert_eq!(judge(&blocks).class, judge(&scaled).class);
    }

    #[test]
    fn a_slower_candidate_is_never_less_of_a_regression(seed in 0_u64..1000) {
        let at = |factor| judge(&World::new(seed).blocks(12, factor)).evidence.p;
        prop_assert!(at(1.3) <= at(1.1) + 1e-12);
    }
}
