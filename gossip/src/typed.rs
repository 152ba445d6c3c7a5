//! Records as values of the program's own types.

use crate::codec::DecodeError;
use crate::engine::Changed;
use crate::id::{NodeId, TableId};
use crate::node::Gossip;
use crate::owned::SetError;

/// Records of one table as values of one type.
pub trait Record: serde::Serialize + serde::de::DeserializeOwned {
    /// Its table.
    const TABLE: TableId;
}

impl Gossip {
    /// [`Self::set_owned`] or [`Self::set_cluster`], as the type's table is.
    ///
    /// # Errors
    /// [`SetError`]; nothing has changed then.
    pub fn set<R: Record>(&self, key: &str, record: &R) -> Result<(), SetError> {
        self.put(R::TABLE, key, Some(crate::codec::encode(record)))
    }

    /// Deletes a record.
    ///
    /// # Errors
    /// [`SetError`]; nothing has changed then.
    pub fn delete<R: Record>(&self, key: &str) -> Result<(), SetError> {
        self.put(R::TABLE, key, None)
    }

    fn put(&self, table: TableId, key: &str, value: Option<Vec<u8>>) -> Result<(), SetError> {
        match table.is_cluster() {
            true => self.set_cluster(table, key, value),
            false => self.set_owned(table, key, value),
        }
    }

    /// Every live record of that type: owner, key, value. Those that this program's version can't read are left out.
    pub fn list<R: Record>(&self) -> Vec<(Option<NodeId>, String, R)> {
        let records = self.records(R::TABLE).into_iter();
        records
            .filter_map(|(owner, key, value)| Some((owner, key, crate::codec::decode(&value).ok()?)))
            .collect()
    }
}

impl Changed {
    /// The record that changed, if it is of that type: its value, or `None` when it is gone.
    ///
    /// # Errors
    /// If its bytes are not of that type.
    pub fn record<R: Record>(&self) -> Option<Result<Option<R>, DecodeError>> {
        (self.table == R::TABLE).then(|| self.value.as_deref().map(crate::codec::decode).transpose())
    }
}
