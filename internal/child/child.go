// Package child starts processes that end with the one that starts them, and
// ends groups of processes, as far as the system can.
package child
