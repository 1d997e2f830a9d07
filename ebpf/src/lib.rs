//! The CO-RE eBPF programs of jitterscope and what loads them.
