//! Fetches what an address on the Internet names, and never what a private network holds.
