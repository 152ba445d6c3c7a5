//! Checksums and super-frames as they come: finished where a receiver can't, recognised where a sender didn't say.
