// Command kube-scheduler is the scheduler of Kubernetes: it gives pods to nodes. Built
// from its published Go modules, for the test of the DaemonSet.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
)

func main() {
	os.Exit(cli.Run(app.NewSchedulerCommand()))
}
