//! Claims jobs from a server, works on them and reports how they ended.
