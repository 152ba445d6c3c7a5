//! A lab's check, of a lab that is not as it must be.

use anyhow::{Context, Result, bail, ensure};
use vswitchd::lab::check::{Pair, check};
use vswitchd::lab::names::Names;
use vswitchd::lab::underlay::Underlay;
use vswitchd::lab::{Lab, Plan, Shape, UnderlayKind, report};

use super::daemons::Scratch;
use crate::fixture::{VSWITCHD, shape};

/// The first node is cut off from the world outside, and not from the other one.
pub(super) fn cut_off() -> Result<()> {
    let scratch = Scratch::new("lab-cut-off")?;
    let mut lab = Lab::build(Plan::new(Shape { underlay: UnderlayKind::Wire, ..shape(2, 1, 1, false) })?)?;
    lab.start(VSWITCHD, &scratch.0)?;
    let Underlay::Wire(wire) = lab.underlay() else { bail!("a wire was planned") };
    let outside = lab.nodes().len();
    wire.partition(0, outside);
    let findings = check(&lab)?;
    ensure!(!findings.is_right());
    let way_out = findings.way_out.as_ref().context("there are endpoints")?;
    let right: Vec<bool> = way_out.errands.iter().map(|errand| errand.is_right()).collect();
    ensure!(right == [false, true], "{way_out:?}");
    let faults = report::faults(lab.plan(), &findings);
    let [way_out, way_in] = &faults[..] else { bail!("{faults:?}") };
    ensure!(way_out == "n1a can't fetch http://outside.test/: outside.test does not resolve", "{way_out}");
    ensure!(way_in.starts_with("outside, by node1 can't visit http://web/: connect: "), "{way_in}");
    // What does not lead out is as it must be.
    ensure!(findings.pairs.iter().all(Pair::is_right), "{:?}", findings.pairs);
    ensure!(findings.names.as_ref().is_some_and(Names::is_right), "{:?}", findings.names);
    ensure!(findings.page.is_some_and(|page| page.outcome.is_ok()));
    Ok(())
}
