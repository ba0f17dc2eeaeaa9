package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	libapi "github.com/projectcalico/calico/libcalico-go/lib/apis/v3"
	"github.com/projectcalico/calico/libcalico-go/lib/backend/api"
	"github.com/projectcalico/calico/libcalico-go/lib/backend/k8s/conversion"
	"github.com/projectcalico/calico/libcalico-go/lib/backend/model"
	processors "github.com/projectcalico/calico/libcalico-go/lib/backend/syncersv1/updateprocessors"
	"github.com/projectcalico/calico/libcalico-go/lib/backend/watchersyncer"
	"github.com/projectcalico/calico/libcalico-go/lib/names"
	"github.com/projectcalico/calico/libcalico-go/lib/resources"
	validator "github.com/projectcalico/calico/libcalico-go/lib/validator/v3"
)

// kvp is an object as the datastore's client gives it to the syncer.
type kvp struct {
	model.KVPair
	kind string
}

// kinds makes an empty one of each kind that is a resource of Calico.
var kinds = map[string]func() any{
	v3.KindNetworkPolicy:             func() any { return v3.NewNetworkPolicy() },
	v3.KindGlobalNetworkPolicy:       func() any { return v3.NewGlobalNetworkPolicy() },
	v3.KindStagedNetworkPolicy:       func() any { return v3.NewStagedNetworkPolicy() },
	v3.KindStagedGlobalNetworkPolicy: func() any { return v3.NewStagedGlobalNetworkPolicy() },
	v3.KindTier:                      func() any { return v3.NewTier() },
	v3.KindNetworkSet:                func() any { return v3.NewNetworkSet() },
	v3.KindGlobalNetworkSet:          func() any { return v3.NewGlobalNetworkSet() },
	v3.KindHostEndpoint:              func() any { return v3.NewHostEndpoint() },
	v3.KindProfile:                   func() any { return v3.NewProfile() },
	v3.KindIPPool:                    func() any { return v3.NewIPPool() },
	libapi.KindWorkloadEndpoint:      func() any { return libapi.NewWorkloadEndpoint() },
}

var converter = conversion.NewConverter()

// decode reads an object. Kubernetes' own are converted as the Kubernetes datastore does it; of a
// pod only the first interface counts.
func decode(text []byte) (*kvp, error) {
	var head struct {
		metav1.TypeMeta
		metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, err
	}
	one := func(pair *model.KVPair, err error) (*kvp, error) {
		if err != nil {
			return nil, err
		}
		return &kvp{KVPair: *pair, kind: pair.Key.(model.ResourceKey).Kind}, nil
	}
	switch head.APIVersion + " " + head.Kind {
	case "networking.k8s.io/v1 NetworkPolicy":
		object, err := typed[networking.NetworkPolicy](text)
		if err != nil {
			return nil, err
		}
		return one(converter.K8sNetworkPolicyToCalico(object))
	case "v1 Namespace":
		object, err := typed[corev1.Namespace](text)
		if err != nil {
			return nil, err
		}
		return one(converter.NamespaceToProfile(object))
	case "v1 ServiceAccount":
		object, err := typed[corev1.ServiceAccount](text)
		if err != nil {
			return nil, err
		}
		return one(converter.ServiceAccountToProfile(object))
	case "v1 Pod":
		object, err := typed[corev1.Pod](text)
		if err != nil {
			return nil, err
		}
		pairs, err := converter.PodToWorkloadEndpoints(object)
		if err != nil {
			return nil, err
		}
		return one(pairs[0], nil)
	case "discovery.k8s.io/v1 EndpointSlice":
		object, err := typed[discovery.EndpointSlice](text)
		if err != nil {
			return nil, err
		}
		return one(converter.EndpointSliceToKVP(object))
	}
	empty, known := kinds[head.Kind]
	if !known {
		return nil, fmt.Errorf("objects of kind %s are not known here", head.Kind)
	}
	value := empty()
	if err := json.Unmarshal(text, value); err != nil {
		return nil, err
	}
	key := model.ResourceKey{Kind: head.Kind, Namespace: head.Namespace, Name: head.Name}
	return &kvp{KVPair: model.KVPair{Key: key, Value: value}, kind: head.Kind}, nil
}

func typed[T any](text []byte) (*T, error) {
	object := new(T)
	return object, json.Unmarshal(text, object)
}

// store does what upstream's client does before it writes: fills fields that are left out, and
// refuses what makes no sense. What Kubernetes keeps does not pass through it.
func store(object *kvp) error {
	switch value := object.Value.(type) {
	case *v3.Tier:
		resources.DefaultTierFields(value)
	case *v3.NetworkPolicy:
		if strings.HasPrefix(value.Name, names.K8sNetworkPolicyNamePrefix) {
			return nil
		}
		fillTypes(value.Spec.Ingress, value.Spec.Egress, &value.Spec.Types)
		if err := names.ValidateTieredPolicyName(value.Name, value.Spec.Tier); err != nil {
			return err
		}
	case *v3.GlobalNetworkPolicy:
		fillTypes(value.Spec.Ingress, value.Spec.Egress, &value.Spec.Types)
		if err := names.ValidateTieredPolicyName(value.Name, value.Spec.Tier); err != nil {
			return err
		}
	case *v3.StagedNetworkPolicy:
		fillTypes(value.Spec.Ingress, value.Spec.Egress, &value.Spec.Types)
	case *v3.StagedGlobalNetworkPolicy:
		fillTypes(value.Spec.Ingress, value.Spec.Egress, &value.Spec.Types)
	case *libapi.WorkloadEndpoint:
		if value.Labels == nil {
			value.Labels = map[string]string{}
		}
		value.Labels[v3.LabelNamespace] = value.Namespace
		value.Labels[v3.LabelOrchestrator] = value.Spec.Orchestrator
	}
	if _, own := kinds[object.kind]; !own {
		return nil
	}
	return validator.Validate(reflect.ValueOf(object.Value).Elem().Interface())
}

// fillTypes says which directions a policy is about if it does not: ingress, unless it has rules
// for egress alone; and egress if it has rules for that.
func fillTypes(ingress, egress []v3.Rule, types *[]v3.PolicyType) {
	if len(*types) > 0 {
		return
	}
	if len(ingress) > 0 || len(egress) == 0 {
		*types = append(*types, v3.PolicyTypeIngress)
	}
	if len(egress) > 0 {
		*types = append(*types, v3.PolicyTypeEgress)
	}
}

// feed has the processors that stand between the datastore and the graph.
type feed struct {
	processors map[string]watchersyncer.SyncerUpdateProcessor
	known      map[string]bool
}

func newFeed() *feed {
	return &feed{
		processors: map[string]watchersyncer.SyncerUpdateProcessor{
			v3.KindNetworkPolicy:             processors.NewNetworkPolicyUpdateProcessor(),
			v3.KindGlobalNetworkPolicy:       processors.NewGlobalNetworkPolicyUpdateProcessor(),
			v3.KindStagedNetworkPolicy:       processors.NewStagedNetworkPolicyUpdateProcessor(),
			v3.KindStagedGlobalNetworkPolicy: processors.NewStagedGlobalNetworkPolicyUpdateProcessor(),
			v3.KindTier:                      processors.NewTierUpdateProcessor(),
			v3.KindNetworkSet:                processors.NewNetworkSetUpdateProcessor(),
			v3.KindGlobalNetworkSet:          processors.NewGlobalNetworkSetUpdateProcessor(),
			v3.KindHostEndpoint:              processors.NewHostEndpointUpdateProcessor(),
			v3.KindProfile:                   processors.NewProfileUpdateProcessor(),
			v3.KindIPPool:                    processors.NewIPPoolUpdateProcessor(),
			libapi.KindWorkloadEndpoint:      processors.NewWorkloadEndpointUpdateProcessor(),
		},
		known: map[string]bool{},
	}
}

// updates converts an object as its processor does, and names additions and changes as the
// watcher's cache does, which also passes over what goes without having been there.
func (f *feed) updates(object *kvp) ([]api.Update, error) {
	pairs := []*model.KVPair{&object.KVPair}
	key := object.Key.(model.ResourceKey)
	if processor := f.processors[key.Kind]; processor != nil {
		var err error
		if pairs, err = processor.Process(&object.KVPair); err != nil {
			return nil, err
		}
	}
	var updates []api.Update
	for _, pair := range pairs {
		path := fmt.Sprintf("%T %v", pair.Key, pair.Key)
		update := api.Update{KVPair: *pair, UpdateType: api.UpdateTypeKVNew}
		switch {
		case pair.Value == nil && !f.known[path]:
			continue
		case pair.Value == nil:
			update.UpdateType = api.UpdateTypeKVDeleted
			delete(f.known, path)
		case f.known[path]:
			update.UpdateType = api.UpdateTypeKVUpdated
		}
		if pair.Value != nil {
			f.known[path] = true
		}
		updates = append(updates, update)
	}
	return updates, nil
}
