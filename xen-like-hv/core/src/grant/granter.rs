//! Finding the granter that an operation names: the operations of one call nearly always name the same one.

use alloc::sync::Arc;

use pv_abi::grant::GrantStatus;
use pv_abi::ids::DomId;

use crate::cx::Cx;
use crate::domain::Domain;
use crate::port::Machine;

/// The domain other than the caller that was named last. It may die meanwhile: a claim asks under its lock.
#[derive(Debug, Default)]
pub(super) struct LastGranter(Option<Arc<Domain>>);

impl LastGranter {
    /// The domain of that number.
    ///
    /// # Errors
    /// `bad_domain` where there is none.
    #[inline(always)]
    pub(super) fn named<'s, M: Machine>(
        &'s mut self,
        cx: &Cx<'s, M>,
        id: DomId,
    ) -> Result<&'s Arc<Domain>, GrantStatus> {
        if id == cx.dom.id {
            return Ok(cx.dom);
        }
        if self.0.as_ref().is_none_or(|dom| dom.id != id) {
            self.0 = cx.hv.domains.get(id);
        }
        self.0.as_ref().ok_or(GrantStatus::BadDomain)
    }
}
