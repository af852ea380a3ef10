package envoytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/boifi/hfi/internal/testtool"
)

// dynamicFile is the file from which Envoy reads its dynamic listeners.
func dynamicFile(folder string) string { return filepath.Join(folder, "listeners.json") }

// writeDynamic replaces the file of dynamic listeners by a rename, which Envoy watches for.
func (c *Config) writeDynamic(folder string) error {
	resources := []object{}
	for _, listener := range c.Dynamic {
		built, err := listener.build(c, folder)
		if err != nil {
			return fmt.Errorf("listener %q: %w", listener.name(), err)
		}
		built["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener"
		resources = append(resources, built)
	}
	text, err := json.Marshal(object{"resources": resources})
	if err != nil {
		return err
	}
	fresh := dynamicFile(folder) + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, dynamicFile(folder))
}

// SetDynamic replaces the dynamic listeners of a running Envoy, as a control plane does, and
// waits until Envoy has applied the change. Listeners that have changed drain. Config.Dynamic
// must not be nil at the start. No other method may be called at the same time.
func (e *Envoy) SetDynamic(listeners ...Listener) error {
	taken := func() (float64, error) {
		stats, err := e.Stats()
		if err != nil {
			return 0, err
		}
		if rejected := stats.Value("envoy_listener_manager_lds_update_rejected"); rejected > 0 {
			return 0, fmt.Errorf("Envoy refused dynamic listeners; its log ends with\n%s", e.LogTail(10))
		}
		return stats.Value("envoy_listener_manager_lds_update_success"), nil
	}
	before, err := taken()
	if err != nil {
		return err
	}
	e.config.Dynamic = listeners
	if err := e.config.writeDynamic(e.Folder); err != nil {
		return fmt.Errorf("changing Envoy's listeners: %w", err)
	}
	var refused error
	err = testtool.Poll(WaitLimit, func() error {
		var now float64
		if now, refused = taken(); refused != nil {
			return nil // waiting longer would not help
		}
		found, err := e.askListeners()
		if err != nil || now <= before || len(found) != len(e.config.Listeners)+len(listeners) {
			return fmt.Errorf("Envoy did not apply its new listeners (%v): %v", err, found)
		}
		e.listeners = found
		return nil
	})
	return errors.Join(refused, err)
}
