package main

// group is a group of functions that are compiled with another body, for one reason.
type group struct {
	why       string
	functions []function
}

// reviewed is the minor version of Go for which unused is right. Any other is an error,
// because a function may have got another task or another caller there. Before this is
// changed, compare each function listed, and its callers, with those of the version before.
// Of patch releases, which mend errors only, nothing but the names is checked.
const reviewed = "go1.26"

// unused has the functions that are compiled with another body: one that returns zero
// values, after the statement given if there is one. Before a function is added, its callers
// must be read: what it returns must be right where something calls it, or it must be certain
// that nothing does.
var unused = []group{
	{"Nothing starts the execution tracer. Without these, the compiler leaves out every place that would write an event.", functions(`
		runtime traceEnabled
		runtime traceAllocFreeEnabled
		runtime traceLocker.ok
		runtime traceAcquire
		runtime traceRelease
		runtime traceAdvance
		runtime traceLocker.SpanFree
	`)},
	{"Nothing reads profiles or metrics of the runtime.", functions(`
		runtime profilealloc
		runtime mProf_Malloc
		runtime mProf_Free
		runtime mProf_Flush
		runtime blockevent
		runtime saveblockevent
		runtime tryRecordGoroutineProfile
		runtime tryRecordGoroutineProfileWB
		runtime (*profBuf).read
		runtime godebug_registerMetric
		runtime initMetrics
	`)},
	{"GODEBUG is not a setting of the filter: every variable keeps its default.", functions(`
		runtime parsegodebug
		internal/cpu processOptions
		internal/godebug (*Setting).Value
		internal/godebug (*Setting).IncNonDefault
		internal/godebug init@godebug.go
	`)},
	{"These only print, for variables of GODEBUG that keep their defaults.", functions(`
		runtime schedtrace
		runtime printScavTrace
		runtime dumpScanStats
		runtime fmtNSAsMS
		runtime checkFinalizersAndCleanups
		runtime runCheckmark
	`)},
	{"A fatal error prints its message. The stacks of the goroutines are left out, as are values in a panic that are neither text nor integers.", functions(`
		runtime traceback
		runtime tracebackothers
		runtime tracebacksomeothers
		runtime tracebackHexdump
		runtime traceback1
		runtime saveAncestors
		runtime goroutineheader
		runtime printcreatedby
		runtime gcDumpObject
		runtime hexdumpWords
		runtime printfloat32
		runtime printfloat64
		runtime printcomplex64
		runtime printcomplex128
		runtime printanycustomtype print("(a value of another type)")
		runtime (*mspan).reportZombies throw("found pointer to free object")
		runtime badPointer throw("found bad pointer in Go heap")
		runtime dumpgstatus
	`)},
	{"These check at each start that the compiler and the linker are right.", functions(`
		runtime check
		runtime moduledataverify1
	`)},
	{"A Wasm module is one piece: no plugins are loaded.", functions(`
		runtime typelinksinit
	`)},
	{"A Wasm module cannot return memory to its host, so nothing is gained by looking for free memory. The goroutine that does would use a timer.", functions(`
		runtime bgscavenge c <- 1
		runtime (*pageAlloc).scavenge
		runtime (*scavengerState).wake
	`)},
	{"A Wasm module has one thread.", functions(`
		runtime newm throw("a Wasm module has one thread")
		runtime startm throw("a Wasm module has one thread")
		runtime newextram
		runtime cgocall
		runtime cgoContextPCs
		runtime mexit throw("the thread of a Wasm module ends")
		runtime defaultGOMAXPROCSUpdateEnable
	`)},
	{"The filter uses no timers, and waits for nothing but Envoy: see package filter.", functions(`
		runtime usleep
		runtime netpollinited
		runtime netpollGenericInit
		runtime netpoll
		runtime (*timers).check
		runtime (*timer).maybeRunChan
		runtime (*timers).take
		runtime (*timer).modify throw("the filter must not use timers")
		runtime timeSleep throw("the filter must not use timers")
	`)},
	{"The filter has no finalizers, cleanups and weak pointers.", functions(`
		runtime addspecial throw("the filter must not use finalizers and cleanups")
		runtime freeSpecial
		runtime queuefinalizer
		runtime markrootSpans
		runtime (*cleanupQueue).enqueue
		runtime (*cleanupQueue).flush
		runtime (*cleanupQueue).needsWake
		runtime (*cleanupQueue).wake
	`)},
	{"The filter prints no times.", functions(`
		time Time.String return "(a time)"
		time (*Location).String return "(a location)"
	`)},
	{"The filter uses no files and no environment variables. The SDK imports package os through fmt, and that reads these variables through sync.OnceFunc.", functions(`
		runtime goenvs envs = []string{}
		os NewFile
		os init@proc.go
		syscall init@fs_wasip1.go
		sync OnceFunc return func() { panic("the filter must not use sync.OnceFunc") }
	`)},
}
