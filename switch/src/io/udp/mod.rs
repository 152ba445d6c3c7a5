//! TAP devices by raw ioctl: offloads, another namespace, take-over of a pre-made device.
