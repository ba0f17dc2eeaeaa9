// Command kube-proxy is the proxy of Kubernetes: it makes the addresses of
// services reachable. Built
// from its published Go modules, for the test of the DaemonSet.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-proxy/app"
)

func main() {
	os.Exit(cli.Run(app.NewProxyCommand()))
}
