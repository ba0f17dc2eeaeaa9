// Command kubelet is the kubelet of Kubernetes: it runs the pods of a node. Built
// from its published Go modules, for the test of the DaemonSet.
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	os.Exit(cli.Run(app.NewKubeletCommand(context.Background())))
}
