package main

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"syscall"
	"time"

	"github.com/projectcalico/calico/libcalico-go/lib/backend/api"
)

// measured takes the time and the memory of a graph. Its commands:
//
//	{"op": "load", "object": {...}}      decoded and kept until the measurement
//	{"op": "measure", "name": "load"}    all of them, from nothing to in-sync and flushed
//	{"op": "stream", "object": {...}}    decoded, taken in at once and not kept by us: for memory
//	{"op": "measure", "name": "stream"}  in-sync, flush, and what memory is taken then
//	{"op": "change", "object": {...}}    decoded and kept until the measurement
//	{"op": "measure", "name": NAME}      each of them, up to the flush of what changed
type measured struct {
	graph    *graph
	objects  []*kvp
	messages int
}

const batch = 1000 // The most updates that upstream's syncer hands over at once.

func (m *measured) take(c command) any {
	if m.graph == nil {
		m.graph = newGraph("n0", false, func(any) { m.messages++ })
	}
	if c.Op != "measure" {
		object, err := decode(c.Object)
		check(err)
		check(store(object))
		if c.Op != "stream" {
			m.objects = append(m.objects, object)
			return nil
		}
		updates, err := m.graph.feed.updates(object)
		check(err)
		m.graph.filter.OnUpdates(updates)
		return nil
	}
	defer func() { m.objects, m.messages = nil, 0 }()
	switch c.Name {
	case "load":
		return m.load()
	case "stream":
		return m.stream()
	}
	return m.changes()
}

// load tells apart what upstream's server between datastore and Felix (Typha) may have done:
// the conversion into the graph's own values.
func (m *measured) load() any {
	runtime.GC()
	converted := make([]api.Update, 0, len(m.objects))
	conversion := timed(func() {
		for _, object := range m.objects {
			updates, err := m.graph.feed.updates(object)
			check(err)
			converted = append(converted, updates...)
		}
	})
	m.objects = nil
	runtime.GC()
	total := timed(func() {
		for start := 0; start < len(converted); start += batch {
			m.graph.filter.OnUpdates(converted[start:min(start+batch, len(converted))])
		}
		m.graph.synced()
		m.graph.flush()
	})
	return map[string]any{"conversion": conversion, "graph": total, "messages": m.messages}
}

func (m *measured) stream() any {
	m.graph.synced()
	m.graph.flush()
	usual := resident("VmRSS:")
	debug.FreeOSMemory()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return map[string]any{
		"kib": usual, "kib_after_gc": resident("VmRSS:"), "kib_at_most": resident("VmHWM:"),
		"kib_live": stats.HeapAlloc / 1024, "messages": m.messages,
	}
}

func (m *measured) changes() any {
	runtime.GC()
	times := make([]float64, 0, len(m.objects))
	all := timed(func() {
		for _, object := range m.objects {
			start := time.Now()
			updates, err := m.graph.feed.updates(object)
			check(err)
			m.graph.filter.OnUpdates(updates)
			m.graph.flush()
			times = append(times, time.Since(start).Seconds())
		}
	})
	sort.Float64s(times)
	return map[string]any{
		"median": times[len(times)/2], "worst": times[len(times)*99/100],
		"cpu": all.CPU / float64(len(times)), "messages": m.messages,
	}
}

// took is seconds on the clock, and of processors, those of the garbage collector included.
type took struct {
	Wall float64 `json:"wall"`
	CPU  float64 `json:"cpu"`
}

func timed(what func()) took {
	cpu := func() float64 {
		var usage syscall.Rusage
		check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
		seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
		return seconds(usage.Utime) + seconds(usage.Stime)
	}
	start, before := time.Now(), cpu()
	what()
	return took{Wall: time.Since(start).Seconds(), CPU: cpu() - before}
}

// resident is a line of /proc/self/status, in KiB.
func resident(name string) int {
	text, err := os.ReadFile("/proc/self/status")
	check(err)
	for _, line := range bytes.Split(text, []byte("\n")) {
		if rest, found := bytes.CutPrefix(line, []byte(name)); found {
			number, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
			check(err)
			return number
		}
	}
	panic("no " + name)
}
