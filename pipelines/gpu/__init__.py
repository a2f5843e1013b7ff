"""What `make check-gpu` looks at, each part a function of a device and sizes, and the page that it prints."""
