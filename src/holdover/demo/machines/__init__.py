"""Virtual machines of the demonstration, the tests and the benchmarks: image, QEMU process, console."""
