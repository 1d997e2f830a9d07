//! What values are read as.

use super::values::decode;
use super::*;

#[test]
fn values_are_percent_decoded() {
    assert_eq!(decode("a%2Cb%3dc%20d"), Some("a,b=c d".to_owned()));
    assert_eq!(decode("100%"), None);
    assert_eq!(decode("%zz"), None);
    assert_eq!(decode("%ff"), None);
}

#[test]
fn resource_attributes_are_all_read_or_refused() {
    let read = |text: &str| {
        let mut problems = Vec::new();
        let environment = [(ATTRIBUTES.to_owned(), text.to_owned())];
        (Otel(&environment).resource(&mut problems).attributes, problems.len())
    };
    let two = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x=y".to_owned())];
    assert_eq!(read(" a = 1 ,b=x%3Dy,"), (BTreeMap::from(two), 0));
    assert_eq!(read("a=1,b"), (BTreeMap::new(), 1));
    assert_eq!(read(""), (BTreeMap::new(), 0));
}

#[test]
fn a_broken_header_is_reported_without_its_text() {
    let mut problems = Vec::new();
    let environment = [("OTEL_EXPORTER_OTLP_HEADERS".to_owned(), "authorization".to_owned())];
    Otel(&environment).destinations_at("http://h:1", "--endpoint", &mut problems);
    assert_eq!(problems.len(), 1);
    assert!(!problems[0].to_string().contains("authorization"), "{}", problems[0]);
}
