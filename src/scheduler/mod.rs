//! Who gets which slot, and how many containers there are; nothing else.
