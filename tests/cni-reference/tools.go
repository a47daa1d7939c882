//go:build tools

package main

// cnitool is built from the same versions.
import _ "github.com/containernetworking/cni/cnitool/cmd"
