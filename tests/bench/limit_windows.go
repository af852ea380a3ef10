package main

func raiseFileLimit() {}
