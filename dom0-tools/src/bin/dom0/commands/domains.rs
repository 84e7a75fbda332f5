//! Verbs about domains.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use dom0_tools::ctl::Exit;
use dom0_tools::ctl::command::{Create, Format, Target};
use dom0_tools::ctl::render;
use dom0_tools::toolstack::{self, CreateOptions, Stop};
use pv_abi::evtchn::EvtchnStat;
use pv_abi::ids::DomId;
use pv_guest_kernel::event;

use super::{Dom0, Outcome};
use crate::session::Session;
use crate::toolstack::{Failure, Toolstack};

pub(super) fn resolve(stack: &Toolstack, who: &str) -> Result<DomId, Failure> {
    Ok(stack.with_env(|env| toolstack::resolve(env, who))?)
}

fn resolve_optional(stack: &Toolstack, who: Option<&str>) -> Result<Option<DomId>, Failure> {
    who.map(|who| resolve(stack, who)).transpose()
}

/// `list`
pub(super) fn list(stack: &Toolstack, session: &Session, only: Option<&str>, format: Format) -> Outcome {
    let only = resolve_optional(stack, only)?;
    let domains = stack.with_env(|env| toolstack::list(env, only))?;
    session.out(&render::domains(&domains, format));
    Ok(())
}

/// `vcpu-list`
pub(super) fn vcpu_list(stack: &Toolstack, session: &Session, only: Option<&str>, format: Format) -> Outcome {
    let only = resolve_optional(stack, only)?;
    let vcpus = stack.with_env(|env| toolstack::vcpu_list(env, only))?;
    session.out(&render::vcpus(&vcpus, format));
    Ok(())
}

/// `create`
pub(super) async fn create(stack: &Rc<Toolstack>, session: &Session, create: &Create) -> Outcome {
    let warn = |text: &str| session.warn(text);
    let config = stack.configuration(&create.file, &create.overrides, warn).await?;
    let options = CreateOptions { paused: create.paused };
    let images = stack.images(&config).await?;
    let dom = stack.create(&config, &images, options, 0).await?;
    // They may be large, and a console may be watched for long.
    drop(images);
    session.out(&format!("created domain {} '{}'\n", dom.raw(), config.name));
    if create.console {
        attach(stack, session, dom).await?;
    }
    Ok(())
}

/// `destroy`
pub(super) fn destroy(stack: &Toolstack, who: &str) -> Outcome {
    stack.destroy(resolve(stack, who)?)
}

fn targets(stack: &Toolstack, target: &Target) -> Result<Vec<DomId>, Failure> {
    match target {
        Target::One(who) => Ok(alloc::vec![resolve(stack, who)?]),
        Target::All => {
            let all = stack.with_env(|env| toolstack::list(env, None))?;
            let running = all.iter().map(|domain| &domain.info).filter(|info| info.shutdown.is_none());
            Ok(running.map(|info| info.domid).filter(|dom| *dom != DomId::DOM0).collect())
        }
    }
}

async fn stop(stack: &Toolstack, session: &Session, doms: &[DomId], how: Stop, wait: bool) -> Outcome {
    for dom in doms {
        stack.with_env(|env| toolstack::request_stop(env, *dom, how))?;
    }
    for dom in doms.iter().filter(|_| wait) {
        if session.unless_cancelled(stack.wait_for_stop(*dom)).await.is_none() {
            return Err(Failure { exit: Exit::TimedOut, text: format!("domain {} still runs", dom.raw()) });
        }
    }
    Ok(())
}

/// `shutdown`; dom0 itself means the machine.
pub(super) async fn shutdown(dom0: &Dom0, session: &Session, target: &Target, wait: bool) -> Outcome {
    let doms = targets(&dom0.stack, target)?;
    if doms.contains(&DomId::DOM0) {
        return super::power_off(dom0);
    }
    stop(&dom0.stack, session, &doms, Stop::Poweroff, wait).await
}

/// `reboot`
pub(super) async fn reboot(stack: &Toolstack, session: &Session, target: &Target, wait: bool) -> Outcome {
    let doms = targets(stack, target)?;
    stop(stack, session, &doms, Stop::Reboot, wait).await
}

/// `pause`
pub(super) fn pause(stack: &Toolstack, who: &str) -> Outcome {
    let dom = resolve(stack, who)?;
    Ok(stack.with_env(|env| toolstack::pause(env, dom))?)
}

/// `unpause`
pub(super) fn unpause(stack: &Toolstack, who: &str) -> Outcome {
    let dom = resolve(stack, who)?;
    Ok(stack.with_env(|env| toolstack::unpause(env, dom))?)
}

async fn attach(stack: &Toolstack, session: &Session, dom: DomId) -> Outcome {
    let console = stack.consoles.of(dom).ok_or_else(|| Failure::new("this domain has no console"))?;
    session.stream();
    console.follow(session).await;
    Ok(())
}

/// `console`
pub(super) async fn console(stack: &Toolstack, session: &Session, who: &str) -> Outcome {
    match resolve(stack, who) {
        Ok(dom) => attach(stack, session, dom).await,
        Err(failure) if stack.consoles.find(who).is_some() => {
            let text = format!("{}; it has ended, see: log {who}", failure.text);
            Err(Failure { text, ..failure })
        }
        Err(failure) => Err(failure),
    }
}

/// `log`; also of a domain that has ended.
pub(super) fn log(stack: &Toolstack, session: &Session, who: &str) -> Outcome {
    let Some(console) = stack.consoles.find(who) else {
        let dom = resolve(stack, who)?;
        return Err(Failure::new(format!("domain {} has no console", dom.raw())));
    };
    session.out_bytes(&console.log());
    Ok(())
}

/// `wait`; a domain that is gone has ended.
pub(super) async fn wait(stack: &Toolstack, session: &Session, who: &str) -> Outcome {
    let dom = match resolve(stack, who) {
        Ok(dom) => dom,
        Err(_) if stack.consoles.find(who).is_some() => return Ok(()),
        Err(failure) => return Err(failure),
    };
    match session.unless_cancelled(stack.wait_for_stop(dom)).await {
        Some(()) => Ok(()),
        None => Err(Failure { exit: Exit::TimedOut, text: format!("domain {} still runs", dom.raw()) }),
    }
}

/// `domid`
pub(super) fn domid(stack: &Toolstack, session: &Session, who: &str) -> Outcome {
    let dom = resolve(stack, who)?;
    session.out(&format!("{}\n", dom.raw()));
    Ok(())
}

/// `domname`
pub(super) fn domname(stack: &Toolstack, session: &Session, who: &str) -> Outcome {
    let dom = resolve(stack, who)?;
    let name = stack.with_env(|env| toolstack::domain_name(env, dom));
    session.out(&format!("{name}\n"));
    Ok(())
}

/// `events`
pub(super) fn events(session: &Session, format: Format) {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for held in event::held() {
        // A port whose other end was closed has no domain any more.
        let status = event::status(held.port).ok();
        let peer = status.filter(|status| status.status == EvtchnStat::Interdomain.raw());
        let domain = peer.map_or_else(|| "-".to_string(), |status| (status.u0 & 0xffff).to_string());
        rows.push(
            [held.port.raw().to_string(), domain, held.taken.to_string(), held.idle.to_string()].into(),
        );
    }
    session.out(&render::table(&["Port", "Domain", "Taken", "Idle"], &rows, format));
}
