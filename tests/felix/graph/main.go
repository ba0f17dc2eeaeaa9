// Runs the calculation graph of Felix (github.com/projectcalico/calico) on resources that it is
// told on standard input, as Felix does on what its datastore tells, and says what comes out.
//
// Each line of the input is a command:
//
//	{"op": "start", "host": "n1", "spoofing": true}   a new graph, for the endpoints of a host
//	{"op": "put", "name": "7", "object": {...}}       a resource, or an object of Kubernetes
//	{"op": "delete", "name": "8", "object": {...}}    of it kind, name and namespace count
//	{"op": "synced"}                                  the listing is complete
//	{"op": "flush"}                                   what has changed for the dataplane
//	{"op": "load"}, {"op": "change"}                  see measure.go
//
// Each answer to a flush is lines {"message": TYPE, "body": {...}} with bodies as protobuf's JSON,
// {"refused": "7", "why": ...} for what upstream's client would not have let into the datastore,
// and {"done": true} at the end.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/projectcalico/calico/felix/calc"
	"github.com/projectcalico/calico/felix/config"
	"github.com/projectcalico/calico/libcalico-go/lib/backend/api"
	"github.com/projectcalico/calico/libcalico-go/lib/backend/model"
	"github.com/projectcalico/calico/libcalico-go/lib/resources"
)

type command struct {
	Op       string          `json:"op"`
	Host     string          `json:"host"`
	Spoofing bool            `json:"spoofing"`
	Object   json.RawMessage `json:"object"`
	Name     string          `json:"name"`
}

// graph is what Felix has between its syncer and its dataplane.
type graph struct {
	calc      *calc.CalcGraph
	sequencer *calc.EventSequencer
	filter    *calc.ValidationFilter
	feed      *feed
	out       func(message any)
}

// sink leads what the validation filter lets through into the graph, as felix/daemon does.
type sink struct{ calc *calc.CalcGraph }

func (s sink) OnStatusUpdated(status api.SyncStatus) { s.calc.OnStatusUpdated(status) }
func (s sink) OnUpdates(updates []api.Update)        { s.calc.OnUpdates(updates) }

func newGraph(host string, spoofing bool, out func(message any)) *graph {
	conf := config.New()
	settings := map[string]string{"FelixHostname": host, "WorkloadSourceSpoofing": "Disabled"}
	if spoofing {
		settings["WorkloadSourceSpoofing"] = "Any"
	}
	// In its environment, as what it has in the datastore is told to the graph.
	_, err := conf.UpdateFrom(settings, config.EnvironmentVariable)
	check(err)
	g := &graph{sequencer: calc.NewEventSequencer(conf), feed: newFeed(), out: out}
	g.sequencer.Callback = func(message any) { g.out(message) }
	g.calc = calc.NewCalculationGraph(g.sequencer, nil, conf, func() {})
	g.filter = calc.NewValidationFilter(sink{g.calc}, conf)
	g.filter.OnStatusUpdated(api.ResyncInProgress)
	// Else nothing leaves the sequencer.
	ready := model.KVPair{Key: model.ReadyFlagKey{}, Value: true}
	g.filter.OnUpdates([]api.Update{{KVPair: ready, UpdateType: api.UpdateTypeKVNew}})
	// Each datastore of upstream has it, without anybody having written it.
	updates, err := g.feed.updates(&kvp{KVPair: *resources.DefaultAllowProfile()})
	check(err)
	g.filter.OnUpdates(updates)
	return g
}

func (g *graph) synced() { g.filter.OnStatusUpdated(api.InSync) }

func (g *graph) flush() {
	g.calc.Flush()
	g.sequencer.Flush()
}

func main() {
	logrus.SetLevel(logrus.PanicLevel)
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	out := bufio.NewWriter(os.Stdout)
	answer := func(value any) {
		line, err := json.Marshal(value)
		check(err)
		_, err = out.Write(append(line, '\n'))
		check(err)
	}
	emit := func(message any) {
		body, err := protojson.Marshal(message.(proto.Message))
		check(err)
		name := strings.TrimPrefix(fmt.Sprintf("%T", message), "*proto.")
		answer(map[string]any{"message": name, "body": json.RawMessage(body)})
	}
	var g *graph
	var m measured
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var c command
		check(json.Unmarshal(line, &c))
		switch c.Op {
		case "start":
			g = newGraph(c.Host, c.Spoofing, emit)
		case "put", "delete":
			if err := g.change(c); err != nil {
				answer(map[string]string{"refused": c.Name, "why": err.Error()})
			}
		case "synced":
			g.synced()
		case "flush":
			g.flush()
			answer(map[string]bool{"done": true})
			check(out.Flush())
		case "load", "stream", "change", "measure":
			if result := m.take(c); result != nil {
				answer(result)
				check(out.Flush())
			}
		default:
			panic("unknown command " + c.Op)
		}
	}
}

// change does what a syncer does with a change in the datastore.
func (g *graph) change(c command) error {
	object, err := decode(c.Object)
	if err != nil {
		return err
	}
	if c.Op == "delete" {
		object.Value = nil
	} else if err := store(object); err != nil {
		return err
	}
	updates, err := g.feed.updates(object)
	if err != nil {
		return err
	}
	g.filter.OnUpdates(updates)
	return nil
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
