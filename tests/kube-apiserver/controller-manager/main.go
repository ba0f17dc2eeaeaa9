// Command kube-controller-manager is the controllers of Kubernetes: the one of
// DaemonSets makes pods of them. Built
// from its published Go modules, for the test of the DaemonSet.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	os.Exit(cli.Run(app.NewControllerManagerCommand()))
}
