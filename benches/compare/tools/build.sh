#!/bin/sh
# Builds the C tools into tools/bin.
cd "$(dirname "$0")" && mkdir -p bin || exit
for tool in pps tappipe; do
  "${CC:-cc}" -O2 -Wall -Wextra -pthread -o "bin/$tool" "$tool.c" || exit
done
