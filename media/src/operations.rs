//! What a job asks for: the operations with their parameters, and what each does.
