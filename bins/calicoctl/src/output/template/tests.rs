use super::*;
use serde_json::json;

fn root() -> Value {
    json!([
        {"kind": "Node", "metadata": {"name": "n1", "labels": {"rack": "a", "zone": "b"}},
         "spec": {"bgp": {"ipv4Address": "192.0.2.1/24"}, "ips": ["10.0.0.1", "10.0.0.2"], "n": 3}},
        {"kind": "Node", "metadata": {"name": "n2"}, "spec": {}},
    ])
}

#[track_caller]
fn check(template: &str, expected: &str) {
    let environment = Environment { config: vec![("asNumber", "64512".to_owned())] };
    let run = |template: Template| template.run(&root(), &environment);
    assert_eq!(Template::parse(template).and_then(run).as_deref(), Ok(expected), "{template}");
}

#[track_caller]
fn fails(template: &str, part: &str) {
    let run = |template: Template| template.run(&root(), &Environment::default());
    let error = Template::parse(template).and_then(run).unwrap_err();
    assert!(error.contains(part), "{template}: {error}");
}

#[test]
fn fields_by_gos_names_and_by_jsons() {
    check("{{range .}}{{.ObjectMeta.Name}} {{end}}", "n1 n2 ");
    check(
        "{{range .}}{{.metadata.name}}={{.Spec.BGP.IPv4Address}};{{end}}",
        "n1=192.0.2.1/24;n2=;",
    );
    check("{{(index . 0).Spec.N}}", "3");
    check("{{range .}}{{.Kind}}{{.TypeMeta.Kind}} {{end}}", "NodeNode NodeNode ");
}

#[test]
fn blocks_variables_and_trimming() {
    check(
        "{{range $i, $n := .}}{{if $i}}, {{end}}{{$i}}:{{$n.metadata.name}}{{end}}",
        "0:n1, 1:n2",
    );
    check("{{range .}}{{if .Spec.N}}y{{else}}n{{end}}{{end}}", "yn");
    check("{{range .}}{{if eq .metadata.name `n2`}}2{{else if gt .spec.n 2}}>{{end}}{{end}}", ">2");
    check(
        "{{range .}}{{with .Spec.BGP}}{{.ipv4Address}}{{else}}-{{end}}\n{{end}}",
        "192.0.2.1/24\n-\n",
    );
    check("a {{- /* note */ -}} b {{ 1 -}} \n c", "ab 1c");
    check("{{$x := 1}}{{range .}}{{$x = $x}}{{$x}}{{end}}{{len $}}", "112");
    check("{{range index . 0 `metadata` `labels`}}{{.}}{{end}}", "ab");
}

#[test]
fn functions() {
    check("{{range .}}{{join .Spec.IPs \",\"}};{{end}}", "10.0.0.1,10.0.0.2;;");
    check("{{range .}}{{joinAndTruncate .Spec.IPs \",\" 12}};{{end}}", "10.0.0.1,...;;");
    check("{{config \"asNumber\"}}", "64512");
    check("{{printf \"%-4s|%3d|%q\" \"a\" 7 \"b\"}}", "a   |  7|\"b\"");
    check("{{\"a}}b\" | printf \"%s!\" | print}}", "a}}b!");
    check(
        "{{and 1 0}}{{or 0 2}}{{not 1}}{{ne 1 2}}{{le 2 2.0}}{{len \"abc\"}}",
        "02falsetruetrue3",
    );
    check(
        "{{(index . 0).spec.ips}} {{(index . 0).metadata.labels}}",
        "[10.0.0.1 10.0.0.2] map[rack:a zone:b]",
    );
    check("{{println 1 \"a\"}}", "1 a\n");
}

#[test]
fn mistakes_are_explained() {
    fails("{{range .}}", "line 1: range without end");
    fails("x\n{{end}}", "line 2: end without if");
    fails("{{foo 1}}", "function foo is not supported; there are and, config, eq");
    fails("{{template \"x\"}}", "template is not supported");
    fails("{{range .nothing}}x{{end}}", "use {{range .}} first");
    fails("{{.Spec}}", "use {{range .}} first");
    fails("{{$x}}", "$x is not declared");
    fails("{{ 1", "{{ without }}");
    fails("{{join .}}", "join does not take 1 argument(s)");
    fails("{{printf \"%x\" 1}}", "%x is not supported");
    fails("{{1 2}}", "no function");
    fails("{{config \"x\"}}", "config knows no \"x\"");
    fails(&"{{if 1}}".repeat(200), "nested deeper");
    fails(&format!("{{{{{}1{}}}}}", "(".repeat(300), ")".repeat(300)), "nested deeper");
}
