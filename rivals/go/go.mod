module rival-go

go 1.19
