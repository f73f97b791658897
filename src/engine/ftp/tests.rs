//! FTP through the engine.
