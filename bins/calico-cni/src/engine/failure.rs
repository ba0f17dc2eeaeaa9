//! What the failures of each part mean to a runtime.

use calico_core::datastore::StoreError;
use calico_ipam::IpamError;

use super::traits::NetworkError;
use crate::spec::{CniError, Code};

impl From<StoreError> for CniError {
    fn from(error: StoreError) -> Self {
        let code = if error.is_retryable() || error.is_conflict() {
            Code::TryAgain
        } else {
            Code::Datastore
        };
        Self::new(code, "the datastore cannot be used").details(error.to_string())
    }
}

impl From<IpamError> for CniError {
    fn from(error: IpamError) -> Self {
        match error {
            IpamError::Store(error) => error.into(),
            IpamError::Invalid { .. } => {
                Self::new(Code::InvalidConfig, "no address can be assigned")
                    .details(error.to_string())
            }
            error => {
                let code = if error.is_retryable() { Code::TryAgain } else { Code::NoAddress };
                Self::new(code, "no address can be assigned").details(error.to_string())
            }
        }
    }
}

impl From<NetworkError> for CniError {
    fn from(error: NetworkError) -> Self {
        let (code, message) = match &error {
            NetworkError::NetnsGone(_) => (Code::UnknownContainer, "the container is gone"),
            NetworkError::Invalid(_) => (Code::InvalidConfig, "no such interface can be made"),
            NetworkError::Failed(_) => (Code::Network, "the interface could not be made"),
        };
        Self::new(code, message).details(error.to_string())
    }
}
