//! Runs one program that touches untrusted bytes, with as few rights as it can work with.
