namespace rs echo

service Echo {
    binary echo(1: binary payload),
}
